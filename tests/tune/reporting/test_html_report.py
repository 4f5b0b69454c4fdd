"""The report: what it says, that it says nothing false, and that nothing from data becomes markup."""

from __future__ import annotations

import csv
import io
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import at, events, where_repeats_disagree, write_journal
from tests.tables import ended_search, with_a_shortened_trial
from tune.history import queries
from tune.history.events import (
    AttemptFailed,
    EpochMeasured,
    Event,
    SearchEnded,
    SearchResumed,
    SearchStarted,
    TrialEnded,
    TrialProposed,
    TrialStarted,
)
from tune.history.journal import table_of
from tune.history.table import Table
from tune.policy.replication import best_trial
from tune.reporting import html_report as report
from tune.settings import Budget
from vqc.epoch import MachineUse
from vqc.errors import SearchError

EVIL = "<script>alert('x')</script> $a_b$ & \"q\""


def until(kind: type[Any], some: list[Event]) -> list[Event]:
    """The events before the first of a kind."""
    return some[: next(index for index, event in enumerate(some) if isinstance(event, kind))]


def default_is(number: int, some: list[Event]) -> list[Event]:
    """The same search, had its default configuration been another trial (0: none)."""
    return [
        event.model_copy(update={"origin": "default" if event.trial == number else "sampler"})
        if isinstance(event, TrialProposed)
        else event
        for event in some
    ]


class Page(HTMLParser):
    """Tags and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " * (tag in ("td", "th", "dt", "dd", "small"))
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


@pytest.fixture(scope="module")
def finished() -> Table:
    return table_of(default_is(4, events(trials=12, epochs=6)))


@pytest.fixture(scope="module")
def html(finished: Table) -> str:
    return report.page(finished)


def test_the_headline_names_the_best_trial_and_its_gain(finished: Table, html: str) -> None:
    best = best_trial(finished)
    gain = queries.gain(finished, best)
    assert best is not None
    assert gain is not None
    text = " ".join(Page(html).text.split())
    assert f"AP50 {best.best('ap50')[0]:.3f}, {gain:.3f} above the default" in text
    assert f"Trial {best.number} (learning_rate" in text
    assert "The search is finished: 12 of 12 trials." in text


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    references = [
        value
        for _, attributes in Page(html).tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data") and value is not None
    ]
    assert [value for value in references if not value.startswith("#")] == []
    assert "url(http" not in html
    assert "@import" not in html


def test_every_colour_variable_is_defined_for_both_schemes(html: str) -> None:
    light, dark = html.split("prefers-color-scheme: dark", 1)
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", light))
    assert used <= set(re.findall(r"(--[\w-]+):", dark[: dark.index("}\n}")]))
    assert not re.search(r"#[0-9a-f]{2}fe[0-9a-f]{2}", html), "a stand-in colour was left in a drawing"


def test_ids_are_unique_and_every_reference_has_its_target(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)) <= {
        pair for i in ids for pair in ((i, ""), ("", i))
    }


def test_trials_that_came_to_nothing_are_listed_with_their_reasons(html: str) -> None:
    text = " ".join(Page(html).text.split())
    assert "3 infeasible 0/6 – one image of 160x160 does not fit" in text
    assert "2 failed 1/6 – RuntimeError: boom" in text


def test_an_attempt_that_was_retried_is_listed_with_its_trial() -> None:
    some = events(trials=4)
    second = next(i for i, event in enumerate(some) if isinstance(event, EpochMeasured) and event.report.epoch == 2)
    failed = AttemptFailed(**at(some[second].at_ms), trial=1, after_epoch=2, reason="RuntimeError: CUDA error")
    again = TrialStarted(**at(some[second].at_ms), trial=1, after_epoch=2, worker="1@host")
    text = " ".join(Page(report.page(table_of([*some[: second + 1], failed, again, *some[second + 1 :]]))).text.split())
    assert "1 completed 6/6 1 RuntimeError: CUDA error" in text


def test_after_repeats_the_best_trial_is_that_of_the_highest_mean() -> None:
    table = table_of(where_repeats_disagree())
    best = best_trial(table)
    assert best is not None
    assert best is not table.leaders()[0]
    text = " ".join(Page(report.page(table)).text.split())
    value = f"{best.best('ap50')[0]:.3f}"
    assert f"AP50 {value}" in text
    assert f"Trial {best.number} (learning_rate" in text
    assert re.search(rf"reason 1 {best.number}(repeats \d+)? {value} ", text)  # the leaderboard's first row


def test_a_best_value_at_an_edge_of_the_space_says_how_to_widen_it(html: str) -> None:
    text = " ".join(Page(html).text.split())
    assert "The space may be too narrow" in text
    assert re.search(r"to space\.\w+\.choices", text)


@pytest.mark.parametrize(
    ("budget", "reason", "said", "resumes"),
    [
        (Budget(trials=4), "trials", "The search is finished: 4 of 4 trials.", False),
        (Budget(trials=4, hours=0.1), "hours", "The search ended with its hours, after 4 of 4 trials.", True),
        (Budget(hours=0.1), "hours", "The search ended with its hours, after 4 trials.", True),
        (Budget(trials=9), "interrupted", "The search was interrupted after 4 of 9 trials.", True),
        (Budget(trials=9), "failed", "The search failed after 4 of 9 trials.", True),
    ],
)
def test_the_end_and_what_is_left_are_those_of_the_budget(
    budget: Budget, reason: str, said: str, resumes: bool
) -> None:
    """Hours may end within the last trial."""
    first, *rest = events(trials=4)
    end = rest.pop()
    some = [first.model_copy(update={"budget": budget}), *rest, end.model_copy(update={"reason": reason})]
    text = " ".join(Page(report.page(table_of(some))).text.split())
    assert said in text
    assert ("Resume with python tune/search.py --name demo --resume" in text) == resumes


def test_a_resumed_search_is_measured_by_its_latest_budget() -> None:
    some = events(trials=4)
    end = some.pop()
    some += [
        SearchResumed(**at(end.at_ms), command="again", budget=Budget(trials=7)),
        end.model_copy(update={"reason": "interrupted"}),
    ]
    text = " ".join(Page(report.page(table_of(some))).text.split())
    assert "The search was interrupted after 4 of 7 trials." in text
    assert "Trials 4 of 7 " in text


def test_strings_from_data_never_become_markup() -> None:
    some = events(trials=9, epochs=3, name=EVIL)
    evil: list[Event] = []
    for event in some:
        if isinstance(event, SearchStarted):
            space = {**event.settings["space"], "model": {"choices": [EVIL, "plain"], "unit": EVIL}}
            updates = {
                "settings": {**event.settings, "space": space},
                "data": {EVIL: EVIL},
                "versions": {EVIL: EVIL},
                "command": EVIL,
            }
            evil.append(event.model_copy(update=updates))
        elif isinstance(event, TrialProposed):
            evil.append(
                event.model_copy(
                    update={"params": {**event.params, EVIL: EVIL, "model": EVIL if event.trial % 2 else "plain"}}
                )
            )
        elif isinstance(event, EpochMeasured):
            scores = event.report.scores.model_copy(update={"class_ap": {EVIL: 0.5}})
            evil.append(event.model_copy(update={"report": event.report.model_copy(update={"scores": scores})}))
        elif isinstance(event, TrialEnded):
            evil.append(event.model_copy(update={"reason": EVIL}))
        else:
            evil.append(event)
    html = report.page(table_of(evil))
    assert "<script" not in html
    assert all(tag != "script" for tag, _ in Page(html).tags)
    assert Page(html).text.count(EVIL) > 10


@pytest.mark.parametrize(
    ("some", "said", "unsaid"),
    [
        (events(trials=4)[:1], "No trial has a score yet", " 0.000 "),
        (until(EpochMeasured, events(trials=4)), "No trial has a score yet", " 0.000 "),
        (events(trials=1), "No other trial has beaten the default", "above the default"),
        (default_is(0, events()), "no trial of the default configuration", "above the default"),
        (events(trials=6)[:-1], "still running, or was killed", "is finished"),
        (events(trials=5), "Too few trials: at least 8", "PED-ANOVA"),
    ],
    ids=["empty", "no epoch", "one trial", "no default", "no end", "too few"],
)  # fmt: skip
def test_what_cannot_be_known_is_said(some: list[Event], said: str, unsaid: str) -> None:
    text = " ".join(Page(report.page(table_of(some))).text.split())
    assert said in text
    assert unsaid not in text


def test_an_interrupted_search_shows_the_command_to_go_on() -> None:
    some = [*events(trials=6)[:-1], SearchEnded(**at(1_790_000_900_000), reason="interrupted")]
    assert "python tune/search.py --name demo --resume" in report.page(table_of(some))


def test_epochs_that_could_not_be_scored_leave_no_zero() -> None:
    some: list[Event] = []
    for event in events(trials=1, epochs=2):
        if isinstance(event, EpochMeasured):
            scores = event.report.scores.model_copy(update={"ap": None, "ap50": None, "ap75": None, "ar": None})
            event = event.model_copy(update={"report": event.report.model_copy(update={"scores": scores})})
        some.append(event)
    html = report.page(table_of(some))
    assert "No trial has a score yet" in html
    assert not re.search(r"\b0\.000\b", html)


def test_importances_find_the_value_that_matters() -> None:
    found = report.importances(table_of(events(trials=40, epochs=3)))
    assert found is not None
    assert next(iter(found)) == "learning_rate"
    assert sum(found.values()) == pytest.approx(1.0)


def test_equal_scores_have_no_importances() -> None:
    some: list[Event] = [
        event.model_copy(update={"report": next(e.report for e in events() if isinstance(e, EpochMeasured))})
        if isinstance(event, EpochMeasured) and event.report.epoch == 1 else event
        for event in events(trials=12, epochs=1)
    ]  # fmt: skip
    assert report.importances(table_of(some)) is None


def test_the_csv_has_a_line_for_every_trial(finished: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(report.trials_csv(finished))))
    assert [int(row["trial"]) for row in rows] == list(range(1, 13))
    assert float(rows[0]["ap50"]) == pytest.approx(finished.trials[1].best("ap50")[0])
    assert rows[2]["state"] == "infeasible"
    assert rows[2]["ap50"] == ""


@given(reason=st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_no_text_of_the_csv_is_a_formula(reason: str) -> None:
    some = [
        event.model_copy(update={"reason": reason}) if isinstance(event, TrialEnded) else event
        for event in events(trials=1, epochs=1)
    ]
    told = list(csv.DictReader(io.StringIO(report.trials_csv(table_of(some)), newline="")))[0]["reason"]
    assert told.removeprefix("'") == reason.removeprefix("'")
    assert not told.startswith(("=", "+", "-", "@"))


def test_files_are_written_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "journal.jsonl", events(trials=3, epochs=2))
    written = report.write_report(journal, tmp_path)
    assert written.read_text(encoding="utf-8").endswith("</html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "report.html", "trials.csv"]


def test_a_broken_journal_writes_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text("nonsense\n" * 2, encoding="utf-8")  # a single one would count as torn
    with pytest.raises(SearchError, match="line 1: not an event"):
        report.write_report(journal, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_the_command_tells_a_missing_search_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["nowhere", "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "no search was run here" in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(tmp_path / "demo" / "journal.jsonl", events(trials=2, epochs=2))
    assert report.main(["demo", "--results", str(tmp_path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.slow
def test_a_thousand_trials_take_seconds() -> None:
    table = table_of(events(trials=1000, epochs=50))
    begun_s = time.monotonic()
    report.page(table)
    assert time.monotonic() - begun_s < 30  # about 5 s on an idle core


def test_the_report_says_what_heat_did() -> None:
    cold = Page(report.page(table_of(events()))).text
    assert "cooling" not in cold
    assert "slowed down by its heat" not in cold
    hot_epochs = {"cooling_s": 60.0, "machine": MachineUse(gpu_slowed_by_heat=0.25)}
    some = [
        event.model_copy(update={"report": event.report.model_copy(update=hot_epochs)})
        if isinstance(event, EpochMeasured)
        else event
        for event in events()
    ]
    hot = " ".join(Page(report.page(table_of(some))).text.split())
    assert "cooling" in hot
    assert "slowed down by its heat in 25 % of its readings" in hot


def test_the_report_says_how_large_the_defects_are() -> None:
    first, *rest = events(trials=3)
    assert isinstance(first, SearchStarted)
    where = {"size": [320, 320], "tile_px": 0, "stride_px": 8}
    sizes = [{"where": at_input, "count": 20, "sides_px": [6, 12, 23]} for at_input in (None, where)]
    page = report.page(table_of([first.model_copy(update={"data": {**first.data, "defect_sizes": sizes}}), *rest]))
    assert "How large the defects are" in page
    assert "too small: 1.3 times as large is asked for" in page
    assert "How large the defects are" not in report.page(table_of([first, *rest]))


def test_where_the_hours_cut_off_the_best_trial_it_is_said() -> None:
    text = " ".join(Page(report.page(ended_search("hours", state="interrupted"))).text.split())
    assert "Trial 2, the best, had 2 of 4 epochs when the hours ended: the rest needs about 22 min." in text
    assert "--resume --hours 1" in text


def test_shortened_trials_are_said() -> None:
    text = " ".join(Page(report.page(with_a_shortened_trial())).text.split())
    assert "Of 4 epochs the hours left trial 2 only 2." in text
