"""What is wrong with a data set: one record per problem, and the report that collects them."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MOST = 10_000  # findings of one severity: nobody reads more, and a hostile file would cause millions

Severity = Literal["error", "warning"]
Pictures = tuple[tuple[Path, Path], ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem.

    Attributes:
        severity: an error keeps the data from being used; a warning does not.
        kind: the heading it is shown under, such as "box outside its image".
        where: such as "train/annotations.json, image 17 (a.jpg), annotation 4".
        message: one clause: what was expected, what was got.
        pictures: pairs of photographs to look at side by side.
    """

    severity: Severity
    kind: str
    where: str
    message: str
    pictures: Pictures = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Report:
    """Findings in the order in which they were added; beyond ``MOST`` of a severity they are only counted."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[Severity] = field(default_factory=Counter)

    @property
    def full(self) -> bool:
        """Whether no further error would be kept, so that reading can stop."""
        return self.counts["error"] > MOST

    def error(self, kind: str, where: str, message: str, *, pictures: Pictures = ()) -> None:
        self._add("error", kind, where, message, pictures)

    def warning(self, kind: str, where: str, message: str, *, pictures: Pictures = ()) -> None:
        self._add("warning", kind, where, message, pictures)

    def _add(self, severity: Severity, kind: str, where: str, message: str, pictures: Pictures) -> None:
        self.counts[severity] += 1
        if self.counts[severity] > MOST + 1:
            return
        if self.counts[severity] == MOST + 1:
            kind, message = f"too many {severity}s", f"more than {MOST:,} {severity}s; the others are not listed"
        self.findings.append(Finding(severity=severity, kind=kind, where=where, message=message, pictures=pictures))

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


def grouped(findings: Sequence[Finding], severity: Severity) -> dict[str, list[Finding]]:
    """Kind -> its findings, for one severity, in the order in which the kinds first occur."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity == severity:
            groups.setdefault(finding.kind, []).append(finding)
    return groups


def warning_lines(findings: Sequence[Finding]) -> list[str]:
    """For each kind of warning one sentence, to be printed before training: the first one, and how many more."""
    return [
        f"Warning: {group[0]}" + (f" ({len(group) - 1} more: vqc check)" if len(group) > 1 else "")
        for group in grouped(findings, "warning").values()
    ]


def printable(text: str) -> str:
    """A name that is safe to print: control characters and lone surrogates escaped, cut to 80 characters."""
    safe = text if text.isprintable() else ascii(text)[1:-1]
    return safe if len(safe) <= 80 else f"{safe[:38]}...{safe[-39:]}"


def shown(value: object) -> str:
    """Any JSON value in short: long texts, long lists and deep nesting are cut."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = 60
    form.maxlist = form.maxdict = 6
    form.maxlevel = 3
    return form.repr(value)
