"""Where Ray's adapters ask for the conductor, and hear whether Ray is still there. Knows nothing of Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tune.execution.ray_processes import VitalProcesses

if TYPE_CHECKING:
    from tune.execution.controller import Conductor
    from tune.execution.gpu_sharing import Packer

__all__ = ["Line", "RayLostError"]


class RayLostError(BaseException):
    """Ends Ray Tune's loop at once: what it would tidy up for an ordinary error, it would ask of a Ray that is gone."""


class Line:
    """The adapters' line to the conductor.

    Ray pickles its searcher, scheduler and callbacks into snapshots of its own; nobody reads them, because a search is
    resumed from the journal, so the line is left out.
    """

    def __init__(self, conductor: Conductor | None, packer: Packer | None) -> None:
        self._conductor, self.packer = conductor, packer
        self._vital = VitalProcesses()

    def check(self) -> None:
        """Ray takes a quarter of a minute to notice what it has lost, and then ends this process unheard."""
        ended = self._vital.ended
        if ended is not None:
            raise RayLostError(ended)

    def __call__(self) -> Conductor:
        if self._conductor is None:
            raise RuntimeError("this adapter was restored from a snapshot of Ray's; use --resume")
        return self._conductor

    def __reduce__(self) -> tuple[type[Line], tuple[None, None]]:
        return Line, (None, None)
