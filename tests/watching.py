"""Which files the interpreter opens: to see that nothing outside a folder is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Watch:
    """An audit hook; it cannot be taken off again, but is off until it is switched on."""

    on: bool = False
    opened: list[str] = field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event == "open" and isinstance(args[0], str):
            self.opened.append(args[0])
