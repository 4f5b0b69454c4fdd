"""Which model answers: the first one, swaps, the way back, and everything that is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving import TOKEN, jpeg, running, settings_for
from vqc.errors import ConfigError, ModelError, UserError
from vqc.inference.bundle import name_champion
from vqc.serving.model_slot import ModelSlot


def slot_of(home: Path) -> ModelSlot:
    return ModelSlot(store=home / "store", promoted=home / "promoted", threads=1)


@pytest.fixture
def slot(home: Path) -> ModelSlot:
    slot = slot_of(home)
    slot.open()
    return slot


def served(slot: ModelSlot) -> str:
    return slot.current.version.version


def test_the_champion_is_served_first_and_what_was_served_last_later(home: Path) -> None:
    slot = slot_of(home)
    assert slot.open() == []
    assert served(slot) == "first"
    slot.reload("second")
    again = slot_of(home)
    assert "The champion is first" in again.open()[0]
    assert (served(again), again.report().previous) == ("second", "first")
    named = slot_of(home)
    named.open(home / "promoted" / "first")
    assert (served(named), named.report().previous) == ("first", "second")


def test_a_rollback_goes_back_and_forth(slot: ModelSlot) -> None:
    with pytest.raises(ModelError, match="no model was served before"):
        slot.rollback()
    slot.reload("second")
    slot.rollback()
    assert served(slot) == "first"
    slot.rollback()
    assert served(slot) == "second"
    slot.reload()  # the champion
    assert served(slot) == "first"


def test_a_threshold_is_kept_for_its_bundle(home: Path, slot: ModelSlot) -> None:
    slot.set_threshold(0.6)
    again = slot_of(home)
    again.open()
    assert again.report().threshold == 0.6
    again.reload("second")
    assert again.report().threshold == 0.75
    again.set_threshold(0.1)
    again.set_threshold(None)
    assert again.report().threshold == 0.75
    with pytest.raises(ConfigError, match="expected a score from 0 to 1"):
        again.set_threshold(2)


BREAK: dict[str, Callable[[Path], object]] = {
    "trade_off.json: missing, changed": lambda bundle: (bundle / "trade_off.json").write_text("{}", encoding="utf-8"),
    "no bundle of a promoted": lambda bundle: (bundle / "manifest.json").unlink(),
    "not a whole bundle": lambda bundle: (bundle / "manifest.json").write_text('{"mod'),
    "not a whole ONNX file": lambda bundle: (bundle / "model.onnx").write_bytes(b"torn"),
    "expected the name of a folder": shutil.rmtree,
}


@pytest.mark.parametrize("says", BREAK)
def test_a_broken_bundle_is_refused_and_the_old_model_goes_on(home: Path, slot: ModelSlot, says: str) -> None:
    before = (home / "store" / "model.json").read_bytes()
    BREAK[says](home / "promoted" / "second")
    with pytest.raises(UserError, match=says):
        slot.reload("second")
    assert served(slot) == "first"
    assert (home / "store" / "model.json").read_bytes() == before


def test_a_bundle_that_finds_something_else_is_refused(home: Path, slot: ModelSlot) -> None:
    golden = home / "promoted" / "second" / "golden" / "golden.json"
    content = json.loads(golden.read_text(encoding="utf-8"))
    content[0]["scores"][0] += 0.01
    golden.write_text(json.dumps(content), encoding="utf-8")
    from vqc.inference.bundle import write_manifest

    write_manifest(golden.parent.parent)
    with pytest.raises(ModelError, match="does not find what the bundle's found"):
        slot.reload("second")
    assert served(slot) == "first"


@pytest.mark.parametrize("name", ["..", "../promoted/second", "", "/etc", "second/golden", ".hidden", "a" * 300, "\0"])
def test_a_name_cannot_leave_the_folder(slot: ModelSlot, name: str) -> None:
    with pytest.raises(ConfigError, match="expected the name of a folder"):
        slot.reload(name)


@pytest.mark.parametrize("text", ['{"bundle": "fi', "[]", '{"bundle": "../first"}', '{"bundle": 3}', "\xff"])
def test_a_torn_pointer_keeps_the_old_model(home: Path, slot: ModelSlot, text: str) -> None:
    (home / "promoted" / "champion.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match="does not name a bundle"):
        slot.reload()
    assert served(slot) == "first"


def test_a_torn_state_or_a_broken_bundle_at_the_start_gives_way_to_what_is_left(home: Path, slot: ModelSlot) -> None:
    slot.reload("second")
    (home / "promoted" / "second" / "model.onnx").write_bytes(b"torn")
    again = slot_of(home)
    assert "model.onnx" in again.open()[0]
    assert served(again) == "first"
    (home / "store" / "model.json").write_text("{", encoding="utf-8")
    assert "does not say which model" in slot_of(home).open()[0]


def test_without_any_model_the_next_command_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no champion yet(.|\n)*next: .*export_best"):
        slot_of(tmp_path).open()


def test_a_swap_over_http_needs_the_token(home: Path) -> None:
    with running(settings_for(home, token=TOKEN)) as (_, client):
        assert client.ask("POST", "/v1/model/reload", json_body={}).json["version"] == "first"
        name_champion(home / "promoted", home / "promoted" / "second")
        swapped = client.ask("POST", "/v1/model/reload", json_body={"bundle": None})
        assert (swapped.json["version"], swapped.json["previous"]) == ("second", "first")
        assert client.inspect(jpeg(1)).json["model"]["version"] == "second"
        (home / "promoted" / "first" / "model.onnx").write_bytes(b"torn")
        refused = client.ask("POST", "/v1/model/rollback")
        assert (refused.status, refused.headers["Content-Type"]) == (409, "application/problem+json")
        assert client.get("/v1/model").json["version"] == "second"
        moved = client.ask("PUT", "/v1/operating-point", json_body={"threshold": 0.33})
        assert moved.json["threshold"] == client.inspect(jpeg(1)).json["threshold"] == 0.33
