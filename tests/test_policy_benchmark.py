"""The policy's benchmark runs from end to end: cold and with a portfolio, on learning curves made here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import library_rivals, policy

SURROGATE = '''
import numpy as np

SPACE = [
    ("batch_size", 16, 512, True, True), ("learning_rate", 1e-4, 0.1, True, False),
    ("max_dropout", 0.0, 1.0, False, False), ("max_units", 64, 1024, True, True), ("momentum", 0.1, 0.99, False, False),
    ("num_layers", 1, 5, False, True), ("weight_decay", 1e-5, 0.1, False, False),
]
NAMES = [one[0] for one in SPACE]


def curves(task, raw, first, last):
    """[n, epochs, 2]: seconds and accuracy, best at a learning rate and a momentum of the task's own."""
    rate = np.log10(raw[:, NAMES.index("learning_rate")]) + 2 + int(task) / 10
    final = 90 - 10 * rate**2 - 20 * (raw[:, NAMES.index("momentum")] - 0.9) ** 2
    epochs = np.arange(first, last + 1)
    accuracy = np.maximum(final, 1)[:, None] * (1 - np.exp(-epochs / 8))
    return np.stack([np.broadcast_to(epochs, accuracy.shape), accuracy], axis=2)
'''


@pytest.fixture
def surrogate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "curves.py").write_text(SURROGATE, encoding="utf-8")
    scales = {task: {"best": 90.0, "median": 60.0} for task in "123"}
    (tmp_path / "stats.json").write_text(json.dumps(scales), encoding="utf-8")
    monkeypatch.setattr(policy, "TUNING", ("1", "2", "3"))
    monkeypatch.setattr(policy, "MOST", 4)
    monkeypatch.setattr(policy, "LAUNCHED", 10)
    return tmp_path


def test_a_search_opened_by_earlier_ones_begins_lower_and_never_ends_worse_than_it_began(surrogate: Path) -> None:
    rivals = {rival.label: rival for rival in policy.RIVALS}
    search = policy.Search(rival=rivals[policy.OURS], task="3", seed=0, data=surrogate, noise=0.0)
    cold = policy.outcome(search)
    opened = policy.outcome(replace(search, rival=rivals[policy.OPENED]))
    for found in (cold, opened):
        assert len(found.regrets) == policy.MOST * policy.MARKS
        assert found.regrets[-1] <= found.regrets[0]
        assert 0 < found.launched_cost < policy.LAUNCHED
    assert opened.regrets[policy.MARKS - 1] < cold.regrets[0]
    assert opened.regrets[-1] < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_task_that_is_judged_is_never_among_the_earlier_searches(surrogate: Path, seed: int) -> None:
    for count, roots in ((1, 1), (2, 2), (None, 2)):
        tables = policy.earlier_searches(surrogate, "2", seed=seed, count=count)
        found = [table.header.data["root"] for table in tables]
        assert len(found) == roots
        assert set(found) <= {"1", "3"}
        assert policy.portfolio(surrogate, "2", seed, count)
        assert len(policy.oracle(surrogate, "2", seed, count)) == 8


LIBRARY = """
# /// script
# dependencies = []
# ///
from client import Search

search = Search.received("library")
print("what a library prints")
worse = {**search.default, "learning_rate": search.space["learning_rate"].low}
for params, epochs in ((search.default, 2), (worse, 2), (search.default, 4), (search.default, search.epochs)):
    assert len(search.values(params, epochs)) == epochs
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a library of its own, version 1.2."""
    shutil.copy(library_rivals.SCRIPTS / "client.py", tmp_path)
    (tmp_path / "library-1.2.dist-info").mkdir()
    (tmp_path / "library-1.2.dist-info" / "METADATA").write_text("Name: library\nVersion: 1.2\n", encoding="utf-8")
    (tmp_path / "library.py").write_text(LIBRARY, encoding="utf-8")
    monkeypatch.setattr(library_rivals, "SCRIPTS", tmp_path)
    return tmp_path


def test_another_library_pays_for_an_epoch_of_a_configuration_once(
    surrogate: Path, scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MOST", 1)  # of 52 epochs, which the library spends on the default, and 2 on the other
    rival = policy.Rival(label="a library", script="library.py")
    found = policy.outcome(policy.Search(rival=rival, task="3", seed=0, data=surrogate, noise=0.0))
    assert found.version == "library 1.2"
    assert len(found.regrets) == policy.MARKS
    assert len(set(found.regrets)) == 1  # the default leads from the first mark to the last


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("", r"status 0\nwhat a library prints"),
        ("search.replies.close(); search.values(worse, 9)", r"status 1\n.*closed"),
    ],
)
def test_a_library_that_ends_before_the_budget_is_an_error_with_what_it_wrote(
    end: str, said: str, surrogate: Path, scripts: Path
) -> None:
    (scripts / "library.py").write_text(LIBRARY + end, encoding="utf-8")
    rival = policy.Rival(label="a library", script="library.py")
    with pytest.raises(RuntimeError, match=rf"(?s)library\.py ended with {said}"):
        policy.outcome(policy.Search(rival=rival, task="3", seed=0, data=surrogate, noise=0.0))
