"""Journals of version 1, read as events of today. Nothing else in the program knows the old form.

Such a journal can be shown and its best trial promoted; the search itself cannot be resumed.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from tune.history.events import EVENT, Event


class Upgrade:
    """One journal's lines, one after the other.

    Version 1 had no awake seconds: they are its wall clock without the pauses between sessions, and without what
    ``clock_leapt`` took away. Trials and hours were settings; ``search_resumed`` had no hours, whatever was asked for.
    """

    def __init__(self) -> None:
        self._last_ms: int | None = None
        self._awake_ms = 0.0

    @staticmethod
    def is_needed(first_line: bytes) -> bool:
        """Whether a journal that begins with this line is of version 1."""
        try:
            values = from_json(first_line)
        except ValueError:
            return False
        return isinstance(values, dict) and values.get("event") == "search_started" and "version" not in values

    def event(self, line: bytes) -> Event | None:
        """The event of the next line; None for one that has no counterpart.

        Raises:
            ValidationError: the line is no event of version 1.
        """
        values: dict[str, Any] = from_json(line) if line.startswith(b"{") else {}
        kind = values.get("event")
        self._keep_time(values)
        values["awake_s"] = self._awake_ms / 1000
        match kind:
            case "search_started":
                settings = dict(values.get("settings", {}))
                budget = {"trials": settings.pop("trials", None), "hours": settings.pop("hours", None)}
                settings.pop("policy", None)
                settings["initial_points"] = settings.pop("opening", ())
                settings["initial_points_origin"] = "portfolio"
                values |= {"version": 2, "settings": settings, "budget": budget}
            case "search_resumed":
                values["budget"] = {"trials": values.pop("trials", None)}
            case "trial_proposed" if values.get("origin") == "confirm":
                values["origin"] = "repeat"
            case "clock_leapt":
                return None
        return EVENT.validate_python(values)

    def _keep_time(self, values: dict[str, Any]) -> None:
        at_ms = values.get("at_ms")
        if not isinstance(at_ms, int):
            return
        if self._last_ms is not None and values.get("event") != "search_resumed":
            self._awake_ms += at_ms - self._last_ms - values.get("lost_ms", 0)
        self._awake_ms = max(0.0, self._awake_ms)
        self._last_ms = at_ms
