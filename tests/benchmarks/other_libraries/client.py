"""What a script of this folder is asked to search, and the values of its configurations.

The benchmark starts a script in an environment of its own and talks to it in lines of JSON: what is to be searched on
the script's standard input, then for every line that names a configuration and epochs one with its values so far.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TextIO


@dataclass(frozen=True, kw_only=True)
class Dimension:
    low: float
    high: float
    log: bool
    integer: bool


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search; the configuration in ``default`` is tried first."""

    space: dict[str, Dimension]
    default: dict[str, float]
    epochs: int
    seed: int
    replies: TextIO
    requests: TextIO

    @classmethod
    def received(cls, package: str) -> Search:
        """The one that the benchmark asks for; it is told the package's version.

        From now on what a library prints goes to stderr.
        """
        requests = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        asked = json.loads(sys.stdin.readline())
        asked["space"] = {name: Dimension(**one) for name, one in asked["space"].items()}
        print(json.dumps({"version": f"{package} {version(package)}"}), file=requests, flush=True)
        return cls(**asked, replies=sys.stdin, requests=requests)

    def values(self, params: Mapping[str, Any], epochs: int) -> list[float]:
        """Accuracy after each of the first so many epochs, per cent; only those not seen so far cost anything.

        Ends the script once the budget is spent.
        """
        plain = {name: int(params[name]) if one.integer else float(params[name]) for name, one in self.space.items()}
        print(json.dumps({"params": plain, "epochs": int(epochs)}), file=self.requests, flush=True)
        reply = self.replies.readline()
        if not reply:
            os._exit(0)  # a library's threads may still be at work
        return list(json.loads(reply))
