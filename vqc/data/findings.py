"""What is wrong with a data set, one record per problem, and the report that collects them.

Written by ``vqc.data.annotations`` and ``vqc.data.dataset``; shown by ``vqc check`` and by the search.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

MOST = 10_000  # findings of one severity: nobody reads more, and a hostile file would make millions of them

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem.

    Attributes:
        severity: an error keeps the data from being used; a warning does not.
        kind: the heading it is shown under, such as "box outside its image".
        where: such as "train/annotations.json, image 17 (a.jpg), annotation 4".
        message: one clause: what was got, what was expected.
    """

    severity: Severity
    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Report:
    """Findings in the order in which they were met; beyond ``MOST`` of a severity they are no longer kept."""

    findings: list[Finding] = field(default_factory=list)
    met: Counter[Severity] = field(default_factory=Counter)

    @property
    def full(self) -> bool:
        """Whether no further error would be kept: then it is time to stop looking."""
        return self.met["error"] > MOST

    def error(self, kind: str, where: str, message: str) -> None:
        self._add("error", kind, where, message)

    def warning(self, kind: str, where: str, message: str) -> None:
        self._add("warning", kind, where, message)

    def _add(self, severity: Severity, kind: str, where: str, message: str) -> None:
        self.met[severity] += 1
        if self.met[severity] > MOST + 1:
            return
        if self.met[severity] == MOST + 1:
            kind, message = f"too many {severity}s", f"more than {MOST:,} {severity}s, from here on none is told"
        self.findings.append(Finding(severity=severity, kind=kind, where=where, message=message))

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


def grouped(findings: Sequence[Finding], severity: Severity) -> dict[str, list[Finding]]:
    """Kind -> its findings, for one severity, in the order in which the kinds were met."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity == severity:
            groups.setdefault(finding.kind, []).append(finding)
    return groups


def warning_lines(findings: Sequence[Finding], *, limit: int = 5) -> list[str]:
    """The warnings in a sentence each, as a run tells them before it begins; beyond ``limit`` their number."""
    found = [f"Warning: {finding}" for finding in findings if finding.severity == "warning"]
    rest = [f"... and {len(found) - limit} more warnings: vqc check --data DIR"] if len(found) > limit else []
    return found[:limit] + rest


def printable(text: str) -> str:
    """A name as it can safely be shown: control characters and lone surrogates escaped, cut to 80 characters."""
    safe = text if text.isprintable() else ascii(text)[1:-1]
    return safe if len(safe) <= 80 else f"{safe[:38]}...{safe[-39:]}"


def shown(value: object) -> str:
    """Any JSON value, short: long texts, lists and deep nesting are cut."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = 60
    form.maxlist = form.maxdict = 6
    form.maxlevel = 3
    return form.repr(value)
