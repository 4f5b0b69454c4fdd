"""The exception tree: what ends a command, and what ends one trial.

::

    VqcError
    ├── UserError              the user can correct it: one sentence, exit status 2, no traceback
    │   ├── ConfigError        a settings file or a flag; holds every problem found
    │   ├── DataError          images or annotations; holds every finding
    │   ├── ModelError         a detector's name, its weights, a checkpoint
    │   └── SearchError        a search that is missing, locked, or has nothing to give
    └── InfeasibleError        the configuration cannot work: a trial ends and the search goes on; any other command
        │                      ends with one sentence and exit status 2
        └── NonFiniteLossError
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from vqc.shell import as_typed


class VqcError(Exception):
    """Root of every exception that this project raises on purpose; each survives pickling whole."""

    def __reduce__(self) -> tuple[object, ...]:
        # They travel between processes, and Exception's own way calls the class with the message alone.
        return _revived, (type(self), self.args, self.__dict__)


def _revived(kind: type[VqcError], args: tuple[object, ...], attributes: dict[str, object]) -> VqcError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class UserError(VqcError):
    """A mistake that the user can correct.

    Args:
        what: one sentence or, for several findings, one line each: what, where, got, expected.
        command: the next command to type, without a prompt sign.
    """

    exit_status = 2

    def __init__(self, what: str, *, command: str | None = None) -> None:
        self.what = what
        self.command = command
        super().__init__(what if command is None else f"{what}\n  next: {as_typed(command)}")


class ConfigError(UserError):
    """One or more bad settings; every problem is named in the spelling of its file or flag."""

    def __init__(self, source: str, problems: Sequence[str], *, command: str | None = None) -> None:
        self.problems = tuple(problems)
        what = (
            f"{source}: {problems[0]}"
            if len(problems) == 1
            else "\n".join([f"{source}: {len(problems)} problems", *(f"  - {p}" for p in problems)])
        )
        super().__init__(what, command=command)


class DataError(UserError):
    """The images or annotations cannot be used."""


class ModelError(UserError):
    """The detector, its weights or its checkpoint cannot be used."""


class SearchError(UserError):
    """The named search cannot do what was asked."""


class InfeasibleError(VqcError):
    """This configuration cannot work on this machine; for the sampler it is a violated constraint."""


class NonFiniteLossError(InfeasibleError):
    """A loss is NaN or infinite.

    Args:
        step: optimiser step, counted from 1 over the whole run.
        losses: name -> value of each term of the loss of this step.
        learning_rate: of this step.
        scale: the gradient scaler's factor (1 without one).
    """

    def __init__(self, *, step: int, losses: Mapping[str, float], learning_rate: float, scale: float) -> None:
        self.step, self.losses, self.learning_rate, self.scale = step, dict(losses), learning_rate, scale
        terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        super().__init__(
            f"the loss is not finite at step {step}: {terms}; learning rate {learning_rate:.3g}, loss scale {scale:g}; "
            "expected a lower learning_rate"
        )


def nearest(word: str, allowed: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the closest allowed word, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
