"""A search lets nobody in: through its ports, through a file that it reads, through a page that it writes."""

from __future__ import annotations

import csv
import io
import ipaddress
import pickle
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.faults.conftest import Row
from tests.faults.night import Night
from tests.images import edit_json, write_data
from vqc.errors import UserError

LOGIN, QUERY = "pa-55-w0rd", "qu3ry-s3cret"
TRACKER = f"http://inspector:{LOGIN}@127.0.0.1:9/mlflow?token={QUERY}"  # nobody listens there
RAYS = ("tuner.pkl", "trainer.pkl", "trainable.pkl", "searcher-state-2026-01-01_00-00-00.pkl",
        "search_gen_state-2026-01-01_00-00-00.json", "experiment_state-2026-01-01_00-00-00.json")  # fmt: skip
TOKEN = Path.home() / ".ray" / "auth_token"


@dataclass(kw_only=True)
class Seen:
    """What was seen of a search from outside while it ran, and the files that it left."""

    night: Night
    listening: set[tuple[str, int, str]] = field(default_factory=set)  # address, port, command line
    answers: dict[str, int] = field(default_factory=dict)  # who asked the dashboard -> HTTP status
    sessions: set[Path] = field(default_factory=set)  # where Ray logs


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    night = Night(folder=tmp_path_factory.mktemp("watched"), settings={"budget": {"trials": 3}})
    seen = Seen(night=night)
    for name in RAYS:
        (night.results / night.name / "ray").mkdir(parents=True, exist_ok=True)
        (night.results / night.name / "ray" / name).write_bytes(_as_pickle(Trap(night.folder / "marker")))
    night.begin("--mlflow", TRACKER)
    try:
        night.wait_for(lambda table: 2 in table.trials)
        for process in night.processes():
            _look_at(process, seen)
        dashboard = re.search(r"http://127\.0\.0\.1:\d+", night.said)
        assert dashboard, night.said
        for who, token in {"a stranger": None, "a guesser": "0" * 64, "the user": TOKEN.read_text()}.items():
            seen.answers[who] = _asked(f"{dashboard[0]}/api/version", token)
        assert night.ended() == 0, night.said
        yield seen
    finally:
        night.close()


def _look_at(process: psutil.Process, seen: Seen) -> None:
    words = " ".join(process.cmdline())
    seen.sessions |= {Path(found) for found in re.findall(r"--session[-_]dir=(\S+)", words)}
    for socket in process.net_connections("inet"):
        if socket.status == psutil.CONN_LISTEN or (not socket.raddr and socket.laddr and socket.type == 2):
            seen.listening.add((socket.laddr.ip, socket.laddr.port, words))


def _asked(url: str, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.mark.slow
def test_all_listens_on_loopback_alone(seen: Seen, record: Callable[[Row], None]) -> None:
    commands = " ".join(command for *_, command in seen.listening)
    assert all(part in commands for part in ("tune/search.py", "gcs_server", "raylet", "dashboard", "ray::Resource"))
    open_to_all = [one for one in seen.listening if not _is_loopback(one[0])]
    assert open_to_all == []
    record(Row(fault="a port that others can reach", injected=len(seen.listening), lost=len(open_to_all)))


@pytest.mark.slow
def test_the_dashboard_asks_for_its_token(seen: Seen, record: Callable[[Row], None]) -> None:
    assert seen.answers == {"a stranger": 401, "a guesser": 403, "the user": 200}
    let_in = sum(status == 200 for who, status in seen.answers.items() if who != "the user")
    record(Row(fault="a stranger at the dashboard", injected=len(seen.answers) - 1, lost=let_in))


@pytest.mark.slow
def test_the_secrets_of_an_address_reach_no_file(seen: Seen, record: Callable[[Row], None]) -> None:
    """Not the journal, the report, a log or the terminal; nor what Ray keeps of a session."""
    folders = [seen.night.results, *seen.sessions]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()] + [seen.night.output]
    found = [path for path in files if any(one.encode() in path.read_bytes() for one in (LOGIN, QUERY))]
    assert any(path.name == "journal.jsonl" for path in files)
    assert "cannot reach MLflow" in seen.night.said  # it was tried, with the secrets
    assert found == []
    record(Row(fault="a password in MLflow's address", injected=len(files), lost=len(found)))


@pytest.mark.slow
def test_what_ray_left_in_a_folder_is_not_unpickled(seen: Seen, record: Callable[[Row], None]) -> None:
    """Somebody hands over a folder of results: Ray keeps pickles in one, and nobody reads them."""
    marker = seen.night.folder / "marker"
    record(Row(fault="a malicious pickle among Ray's files", injected=len(RAYS), lost=int(marker.exists())))
    assert not marker.exists()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.marker), "w")


def _as_pickle(trap: Trap) -> bytes:
    return pickle.dumps(trap, protocol=2)  # the one that torch writes


def _as_torch(trap: Trap) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"model": trap}, buffer)
    return buffer.getvalue()


def _as_numpy(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([trap], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _image(path: Path) -> None:
    from vqc.data.image_io import decode_picture, probe_picture

    for read in (probe_picture, lambda content: decode_picture(content, rotate=True)):
        with pytest.raises(UserError):
            read(path.read_bytes())
    write_data(path.parent / "data")
    content = path.read_bytes()
    path = path.parent / "data/train/images/rgb-1.png"
    path.write_bytes(content)
    _data(path)


def _annotations(path: Path) -> None:
    write_data(path.parent / "data")
    path.rename(path.parent / "data/val/annotations.json")
    _data(path)


def _data(path: Path) -> None:
    from vqc.data.dataset import load_data

    load_data(next(folder for folder in (path.parent / "data", *path.parents) if (folder / "train").exists()))


def _cache(path: Path) -> None:
    from vqc.data.cache import cached_pixels

    path.rename(path.parent / "group-train.npy")
    pixels = cached_pixels(
        path.parent, "train", group="group", shape=(1, 2, 2, 3), produce=lambda: [np.ones((2, 2, 3), np.uint8)]
    )
    assert pixels is not None
    assert pixels.sum() == 12  # made anew
    raise UserError("made anew")


def _journal(path: Path) -> None:
    from tune.history.journal import read_table

    path.write_bytes(path.read_bytes() + b"\n")
    read_table(path)


def _portfolio(path: Path) -> None:
    from tune.policy.portfolio import members_for

    path.rename(path.parent / "portfolio.json")
    members_for("fcos_tiny", path.parent, fields=["learning_rate"])


def _settings(path: Path) -> None:
    from tune.settings import load_settings

    load_settings(path, {})


def _train_config(path: Path) -> None:
    from vqc.config import TrainConfig, load_record

    load_record(TrainConfig, path)


def _model(path: Path) -> None:
    from vqc.models.checkpoint import load_model

    load_model(path)


def _last(path: Path) -> None:
    from vqc.training.state import read_report

    read_report(path)


def _onnx(path: Path) -> None:
    from vqc.inference.model_file import open_predictor

    open_predictor(path)


def _calibration(path: Path) -> None:
    from vqc.inference.calibration import load_calibration

    path.rename(path.parent / "model.calibration.json")
    load_calibration(path.parent / "model.onnx", weights_sha256="")


def _backbone(path: Path) -> None:
    """As the search reads it, and as the detector would if it came so far."""
    from vqc.config import TrainConfig
    from vqc.models.build import build_detector
    from vqc.models.pretrained import resolve_weights

    stored = path.parent / "hub" / "checkpoints" / "mobilenet_v3_large-8738ca79.pth"
    stored.parent.mkdir(parents=True)
    path.rename(stored)
    config = TrainConfig(model="ssdlite320_mobilenet_v3_large", weights="backbone", image_size=(64, 64))
    with pytest.raises(UserError):
        build_detector(config, num_classes=1)
    resolve_weights(config)


WRAPPERS = (_as_pickle, _as_torch, _as_numpy)
READERS: Mapping[str, Callable[[Path], None]] = {
    "an image": _image,
    "annotations.json": _annotations,
    "the cache": _cache,
    "the journal": _journal,
    "the portfolio": _portfolio,
    "the settings": _settings,
    "train_config.json": _train_config,
    "model.safetensors": _model,
    "last.safetensors": _last,
    "model.onnx": _onnx,
    "the calibration": _calibration,
    "backbone weights": _backbone,
}


@pytest.mark.parametrize("wrapped", WRAPPERS)
@pytest.mark.parametrize("what", READERS)
def test_nothing_is_unpickled(
    what: str,
    wrapped: Callable[[Trap], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record: Callable[[Row], None],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    marker = tmp_path / "marker"
    path = tmp_path / "handed"
    path.write_bytes(wrapped(Trap(marker)))
    with pytest.raises(UserError) as refused:
        READERS[what](path)
    assert "Traceback" not in str(refused.value)
    assert len(str(refused.value)) < 500
    assert not marker.exists()
    record(Row(fault="a malicious pickle in a file that is read", injected=1, lost=int(marker.exists())))


def test_the_trap_snaps(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    import torch

    for number, wrapped in enumerate(WRAPPERS):
        marker = tmp_path / str(number)
        content = io.BytesIO(wrapped(Trap(marker)))
        if wrapped is _as_torch:
            torch.load(content, weights_only=False)["model"].close()
        elif wrapped is _as_numpy:
            np.load(content, allow_pickle=True)[0].close()
        else:
            pickle.load(content).close()
        assert marker.exists()


MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&{{7*7}}$x^2$]]>"
NAME = "x' onerror=alert(1) y.png" if sys.platform == "win32" else "\"><img src=x onerror=alert(1)>'.png"


class Page(HTMLParser):
    """What a browser would take for markup: its tags, and the attributes that run something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.text += " ".join(value or "" for _, value in attrs)
        self.handlers += [
            name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "") or value == "x"
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data whose classes and first test picture have names that are markup; all pages of them."""
    from tests.models import SIZE, decided
    from vqc.models.checkpoint import save_model

    folder = tmp_path_factory.mktemp("hostile")
    classes = tuple((number, f"{number}{MARKUP}") for number in (3, 7, 9))
    root = write_data(folder / "data", train=3, val=9, test=9)
    for split in ("train", "val", "test"):
        edit_json(
            root / split / "annotations.json",
            lambda d: d.update(categories=[{"id": number, "name": name} for number, name in classes]),
        )
    (root / "test/images/rgb-2001.png").rename(root / "test/images" / NAME)
    edit_json(root / "test/annotations.json", lambda d: d["images"][0].update(file_name=NAME))
    model, info = decided("fcos_tiny", SIZE)
    save_model(folder / "model.safetensors", model, info.model_copy(update={"categories": classes}))
    return folder


def _evaluation(folder: Path) -> str:
    nowhere = ["--mlflow", TRACKER, "--results", str(folder)]
    _run("evaluate", folder, "--data", str(folder / "data"), *nowhere)
    return (folder / "evaluation.html").read_text(encoding="utf-8")


def _calibrated(folder: Path) -> str:
    _run("calibrate", folder, "--data", str(folder / "data"), "--max-escape", "0.4")
    return (folder / "calibration.html").read_text(encoding="utf-8")


def _explained(folder: Path) -> str:
    photo = folder / "data/test/images" / NAME
    _run("explain", folder, "--images", str(photo), "--masks", "8", "--detections", "2", "--out", str(folder / "why"))
    return (folder / "why/explanations.html").read_text(encoding="utf-8")


def _run(command: str, folder: Path, *flags: str) -> None:
    from vqc.cli.main import main

    assert main([command, "--model", str(folder / "model.safetensors"), *flags]) == 0


def _report(folder: Path) -> str:
    """Of a search whose name, settings and reasons are markup."""
    from tests.builders import events
    from tune.history.events import SearchStarted, TrialEnded
    from tune.history.journal import table_of
    from tune.reporting.html_report import page, trials_csv

    changed = []
    for event in events(trials=9, epochs=3, name=MARKUP):
        if isinstance(event, SearchStarted):
            event = event.model_copy(update={"command": MARKUP, "data": {MARKUP: MARKUP}, "versions": {MARKUP: MARKUP}})
        if isinstance(event, TrialEnded):
            reason = f"=cmd|'/c calc'!A0 {MARKUP}" if event.trial % 2 else f"\r=1+1 {MARKUP}"
            event = event.model_copy(update={"state": "failed", "reason": reason})
        changed.append(event)
    table = table_of(changed, folder)
    rows = list(csv.reader(io.StringIO(trials_csv(table), newline="")))
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row)
    assert any("=cmd" in cell for row in rows for cell in row)
    return page(table)


PAGES = {"evaluation": _evaluation, "calibration": _calibrated, "explanation": _explained, "report": _report}


@pytest.mark.parametrize("which", PAGES)
def test_a_page_runs_nothing_of_what_it_shows(which: str, hostile: Path, record: Callable[[Row], None]) -> None:
    page = Page(PAGES[which](hostile))
    lost = int("script" in page.tags) + len(page.handlers)
    record(Row(fault="markup in the names on a page", injected=page.text.count("onerror"), lost=lost))
    assert "script" not in page.tags
    assert page.handlers == []
    assert page.text.count("onerror=alert(1)") >= 2  # it is shown, as what it is
    assert "{{7*7}}" in page.text
