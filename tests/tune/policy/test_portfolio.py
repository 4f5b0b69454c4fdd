"""What earlier searches learnt: built from journals, chosen so that one member does well everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import events, write_journal
from tests.tables import SPACE, add_trial, search_settings, search_started
from tune.history.events import SearchStarted, State
from tune.history.table import Table
from tune.policy import portfolio
from tune.policy.warm_start import distinct_points
from tune.settings import SearchSettings, load_settings
from tune.space import Params, Space
from vqc.config import load_record, shipped_settings

SETTINGS = search_settings(epochs=2)
RATES = [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 9e-3, 5e-3, 2.5e-3]
FIELDS = ("learning_rate",)


def _started(settings: SearchSettings, data: str) -> SearchStarted:
    return search_started(settings).model_copy(update={"data": {"root": data, "images": {"train": 80}}})


def task(best_rate: float, *, trials: int = 10, sharpness: float = 1.0) -> Table:
    """A search whose trials are the better the nearer their rate is to ``best_rate``; the first is the default."""
    table = Table()
    table.started = _started(SETTINGS, f"parts-{best_rate}")
    for rate in RATES[:trials]:
        value = 0.9 / (1 + sharpness * abs(rate / best_rate - best_rate / rate))
        point: Params = {"learning_rate": rate, "batch_size": 8, "image_size": 128}
        add_trial(table, SETTINGS, values=[value / 2, value], params=point)
    return table


def test_the_default_comes_first_and_then_the_best_of_each_task() -> None:
    chosen = portfolio.build([task(4e-4), task(6.4e-3)]).detectors["fcos_tiny"]
    assert chosen.members[0]["learning_rate"] == RATES[0]
    low, high = sorted(float(member["learning_rate"]) for member in chosen.members[1:3])
    assert low == 4e-4
    assert high >= 5e-3
    assert len(chosen.members) == 3  # a fourth would raise neither


def test_one_task_gives_its_best_and_nothing_else() -> None:
    members = portfolio.build([task(1.6e-3)]).detectors["fcos_tiny"].members
    assert [member["learning_rate"] for member in members] == [RATES[0], 1.6e-3]


def test_however_many_tasks_differ_the_members_are_few_and_differ_too() -> None:
    members = portfolio.build([task(rate, sharpness=10.0) for rate in RATES]).detectors["fcos_tiny"].members
    assert len(members) == portfolio.MAX_MEMBERS
    assert len({json.dumps(member) for member in members}) == portfolio.MAX_MEMBERS


def test_a_search_of_few_trials_teaches_nothing() -> None:
    assert portfolio.build([task(4e-4, trials=7)]).detectors == {}


def test_equal_searches_give_equal_portfolios() -> None:
    assert portfolio.build([task(4e-4), task(5e-3)]) == portfolio.build([task(4e-4), task(5e-3)])


def over_weight_decay(best: float = 1e-3) -> Table:
    """A later search of ten trials over the weight decay alone, at a learning rate of 2e-3."""
    settings = search_settings(
        train={"model": "fcos_tiny", "weights": "none", "image_size": 128, "num_epochs": 2, "learning_rate": 2e-3},
        space={"weight_decay": {"low": 1e-5, "high": 1e-2, "log": True}},
    )
    table = Table()
    table.started = _started(settings, "later")
    for number in range(10):
        decay = 1e-5 * 2**number
        value = 0.9 / (1 + abs(decay / best - best / decay))
        add_trial(table, settings, values=[value / 2, value], params={"weight_decay": decay})
    return table


def test_a_later_search_over_one_other_field_discards_none_of_the_earlier_ones() -> None:
    chosen = portfolio.build([task(4e-4), task(6.4e-3), over_weight_decay()]).detectors["fcos_tiny"]
    assert len(chosen.tasks) == 3
    assert {frozenset(member) for member in chosen.members} == {frozenset({*SPACE, "weight_decay"})}
    rates = [float(member["learning_rate"]) for member in chosen.members]
    assert 4e-4 in rates
    assert max(rates) >= 5e-3
    assert chosen.members[0]["learning_rate"] == 2e-3
    assert chosen.members[0]["image_size"] == 128


@pytest.mark.parametrize("later_first", [False, True])
def test_the_names_of_the_searches_do_not_decide_which_fields_are_known(*, later_first: bool) -> None:
    tables = [task(4e-4), over_weight_decay()]
    chosen = portfolio.build(reversed(tables) if later_first else tables).detectors["fcos_tiny"]
    assert all(member.keys() == {*SPACE, "weight_decay"} for member in chosen.members)


@pytest.mark.parametrize("value", [0.1, 0.44, 0.9])
def test_what_reached_no_more_before_its_last_epoch_is_no_member(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "MIN_GAIN", 0.0)  # or the first member that raises nothing ends the choice
    table = task(4e-4)
    promising: Params = {"learning_rate": 7e-3, "batch_size": 2, "image_size": 160}
    add_trial(table, SETTINGS, values=[value], state="stopped", params=promising)
    chosen = portfolio.build([table]).detectors["fcos_tiny"]
    assert len(chosen.members) == portfolio.MAX_MEMBERS
    assert promising not in chosen.members


def short_night(*values: float) -> Table:
    """The default alone was trained in full, to 0.775; the others reached these values after three of ten epochs."""
    settings = search_settings(epochs=10)
    table = Table()
    table.started = _started(settings, "parts")
    add_trial(table, settings, values=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.77, 0.775], params=_rate(RATES[0]))
    for rate, value in zip(RATES[1:], values, strict=False):
        state: State = "interrupted" if value > 0.5 else "stopped"
        add_trial(table, settings, values=[value / 3, value / 2, value], state=state, params=_rate(rate))
    return table


def _rate(rate: float) -> Params:
    return {"learning_rate": rate, "batch_size": 8, "image_size": 128}


@pytest.mark.parametrize(
    "values",
    [
        (0.1, 0.1, 0.1, 0.1, 0.903, 0.1, 0.1),
        (0.78, 0.1, 0.1, 0.1, 0.903, 0.1, 0.1),  # another one that exceeds the default does not count as much
        (0.68, 0.70, 0.72, 0.75, 0.903, 0.1, 0.1),  # what is predicted of the others is no more than what was reached
    ],
)
def test_what_reached_more_than_all_full_trainings_becomes_a_member(values: tuple[float, ...]) -> None:
    members = portfolio.build([short_night(*values)]).detectors["fcos_tiny"].members
    assert [member["learning_rate"] for member in members] == [RATES[0], RATES[5]]


def test_a_search_in_which_nothing_was_trained_in_full_teaches_nothing() -> None:
    table = task(4e-4)
    for trial in table.trials.values():
        trial.state = "stopped"
    assert portfolio.build([table]).detectors == {}


def test_a_search_whose_settings_are_not_known_any_more_teaches_nothing() -> None:
    table = task(4e-4)
    table.header.settings["left_out_since"] = 1
    assert portfolio.build([table]).detectors == {}


def test_the_users_own_come_before_the_projects(tmp_path: Path) -> None:
    def write(path: Path, rate: float) -> Path:
        record = {"detectors": {"fcos_tiny": {"members": [{"learning_rate": rate}], "tasks": ["a task"]}}}
        path.write_text(json.dumps(record), encoding="utf-8")
        return path

    shipped = write(tmp_path / "shipped.json", 1e-3)
    write(portfolio.portfolio_file(tmp_path), 2e-3)
    members, said = portfolio.members_for("fcos_tiny", tmp_path, fields=FIELDS, shipped=shipped)
    assert members == ({"learning_rate": 2e-3}, {"learning_rate": 1e-3})
    assert "your searches (1) and the project's (1)" in said


def test_a_detector_without_one_is_told(tmp_path: Path) -> None:
    members, said = portfolio.members_for("fcos_tiny", tmp_path, fields=FIELDS, shipped=tmp_path / "none.json")
    assert members == ()
    assert "No portfolio for fcos_tiny yet" in said


def test_members_that_lack_a_searched_field_are_none(tmp_path: Path) -> None:
    chosen = portfolio.Members(members=({"learning_rate": 1e-3},), tasks=("a",))
    shipped = tmp_path / "shipped.json"
    shipped.write_text(portfolio.Portfolio(detectors={"fcos_tiny": chosen}).model_dump_json(), encoding="utf-8")
    fields = [*FIELDS, "weight_decay"]
    members, said = portfolio.members_for("fcos_tiny", tmp_path, fields=fields, shipped=shipped)
    assert members == ()
    assert "No portfolio for fcos_tiny yet" in said


def test_members_from_before_there_were_tiles_are_of_whole_photographs(tmp_path: Path) -> None:
    chosen = portfolio.Members(members=({"learning_rate": 1e-3},), tasks=("a",))
    shipped = tmp_path / "shipped.json"
    shipped.write_text(portfolio.Portfolio(detectors={"fcos_tiny": chosen}).model_dump_json(), encoding="utf-8")
    members, _ = portfolio.members_for("fcos_tiny", tmp_path, fields=[*FIELDS, "tile_px"], shipped=shipped)
    assert members == ({"learning_rate": 1e-3, "tile_px": 0},)


def test_the_command_writes_beside_the_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(tmp_path / "one" / "journal.jsonl", events(trials=12))
    assert portfolio.main([str(tmp_path / "*")]) == 0
    written = json.loads(portfolio.portfolio_file(tmp_path).read_text(encoding="utf-8"))
    assert [set(chosen["members"][0]) for chosen in written["detectors"].values()] == [set(SPACE)]
    assert "configurations from 1 search" in capsys.readouterr().out


def test_nothing_to_learn_from_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert portfolio.main([str(tmp_path)]) == 2
    assert "got 0 searches, expected one of at least 8 trials" in capsys.readouterr().err
    assert not portfolio.portfolio_file(tmp_path).exists()


def test_a_broken_journal_does_not_keep_the_others_from_teaching(tmp_path: Path) -> None:
    write_journal(tmp_path / "good" / "journal.jsonl", events(trials=12))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.jsonl").write_text("{}\n", encoding="utf-8")
    assert portfolio.renew(tmp_path) == portfolio.portfolio_file(tmp_path)


def test_what_the_shipped_portfolio_holds_fits_the_shipped_space() -> None:
    settings = load_settings(shipped_settings("search_cpu.json"), {})
    shipped = load_record(portfolio.Portfolio, shipped_settings("portfolio.json"))
    for detector, chosen in shipped.detectors.items():
        assert detector == settings.train.model
        assert all(Space(settings.space).contains(member) for member in chosen.members)
        assert len(distinct_points(chosen.members, settings)) >= len(chosen.members) - 1  # the default is one
