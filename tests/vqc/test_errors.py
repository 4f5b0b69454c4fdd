"""The exception tree: messages, exit status, and the way between processes."""

from __future__ import annotations

import pickle

import pytest

from vqc import errors
from vqc.errors import (
    ConfigError,
    DataError,
    InfeasibleError,
    ModelError,
    NonFiniteLossError,
    SearchError,
    UserError,
    VqcError,
    nearest,
)

NAN_LOSS = NonFiniteLossError(step=7, losses={"bbox": float("inf"), "class": 0.5}, learning_rate=0.25, scale=2.0**14)

EVERY_KIND = [
    VqcError("plain"),
    UserError("no such folder", command="vqc check --data parts"),
    ConfigError("search.json", ["trials: got 0", "hours: got -1"], command="python tune/search.py"),
    DataError("broken"),
    ModelError("unknown"),
    SearchError("locked", command="wait"),
    InfeasibleError("one image does not fit"),
    NAN_LOSS,
]


@pytest.mark.parametrize("error", EVERY_KIND, ids=lambda error: type(error).__name__)
def test_travels_between_processes_whole(error: VqcError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_every_kind_is_travelled() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VqcError)}
    assert kinds == {type(error) for error in EVERY_KIND}


def test_next_command_stands_on_its_own_line() -> None:
    assert str(UserError("no such folder: parts", command="vqc sample --out parts")).splitlines() == [
        "no such folder: parts",
        "  next: vqc sample --out parts",
    ]


def test_one_problem_is_one_sentence() -> None:
    assert str(ConfigError("a.json", ["trials: got 0, expected 1 or more"])) == (
        "a.json: trials: got 0, expected 1 or more"
    )


def test_several_problems_are_all_named() -> None:
    assert str(ConfigError("a.json", ["first", "second"])).splitlines() == [
        "a.json: 2 problems",
        "  - first",
        "  - second",
    ]


@pytest.mark.parametrize("kind", [ConfigError, DataError, ModelError, SearchError])
def test_what_the_user_can_mend_ends_with_two(kind: type[UserError]) -> None:
    assert kind.exit_status == 2


def test_non_finite_loss_tells_where_it_happened() -> None:
    assert str(NAN_LOSS) == (
        "the loss is not finite at step 7: bbox inf, class 0.5; learning rate 0.25, loss scale 16384; "
        "expected a lower learning_rate"
    )


def test_non_finite_loss_keeps_no_hold_on_its_losses() -> None:
    losses = {"class": float("nan")}
    error = NonFiniteLossError(step=1, losses=losses, learning_rate=0.1, scale=1.0)
    losses.clear()
    assert list(error.losses) == ["class"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("lerning_rate", "; did you mean 'learning_rate'?"),
        ("batchsize", "; did you mean 'batch_size'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_nearest(word: str, hint: str) -> None:
    assert nearest(word, ["learning_rate", "batch_size"]) == hint
