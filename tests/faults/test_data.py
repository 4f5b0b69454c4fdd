"""Pictures and annotations that vanish, change or break before, during and between the sessions of a search."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import images
from tests.faults.conftest import Row
from tests.faults.night import ROOT, Night, outcome, repeated_epochs
from tune.execution.worker import Assignment, Worker, train
from tune.history.table import Table
from vqc.config import TrainConfig
from vqc.data.dataset import load_data
from vqc.errors import DataError
from vqc.results import cache_folder

BOMB_MOST_MB = 100.0
BOMB_MOST_S = 2.0

# Reads one picture after the other, in a process of its own: what it takes is not hidden by what tests hold.
READ_ALL = """
import json, sys, time
from pathlib import Path
from vqc.errors import DataError
from vqc.results import cache_folder
from vqc.data.image_io import decode_picture, picture_bytes, probe_picture

def memory_mb(name):
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) / 1024

def read(path):
    said = []
    for look in (probe_picture, lambda content: decode_picture(content, rotate=True)):
        try:
            look(picture_bytes(path))
        except DataError as error:
            said.append(error.what)
    return said

ordinary, *bombs = map(Path, sys.argv[1:])
assert read(ordinary) == []
for bomb in bombs:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before_mb, started_s = memory_mb("VmRSS:"), time.process_time()
    said = read(bomb)
    print(json.dumps({"said": said, "mb": memory_mb("VmHWM:") - before_mb, "s": time.process_time() - started_s}))
"""


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deflated(pattern: bytes, times: int) -> bytes:
    """So many repetitions of a pattern, compressed without ever being held."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(pattern) for _ in range(times)), packer.flush()])


def _png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 2, pixels: bytes | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if pixels is None:
        pixels = _deflated(b"\0" * (1 + width * 3), height)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), *extra, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    )


def _itxt(megabytes: int) -> bytes:
    return _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _deflated(b"\0" * 2**20, megabytes))


def _tiff(width: int, height: int, *tags: tuple[int, int, int, int]) -> bytes:
    """A grey TIFF of one strip; ``tags``: number, type, count and value or offset of others beside."""
    own = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
           (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 4)]  # fmt: skip
    entries = sorted([*own, *tags])
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IIH", 12, 0, len(entries)) + packed + b"\0" * 4


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "50,000 x 50,000 px, header alone": lambda: _png(50_000, 50_000, pixels=zlib.compress(b"\0")),
    "50,000 x 50,000 px of one bit": lambda: _png(
        50_000, 50_000, depth=1, colour=0, pixels=_deflated(b"\0" * 6251, 50_000)
    ),
    "2 to the 31 px in a row": lambda: _png(2**31 - 1, 1, pixels=zlib.compress(b"\0")),
    "64 MB of text": lambda: _png(64, 48, _itxt(64)),
    "a hundred texts of 0.9 MB": lambda: _png(
        64, 48, *(_chunk(b"zTXt", b"k\0\0" + _deflated(b"\0" * 900_000, 1)) for _ in range(100))
    ),
    "a colour profile of 512 MB": lambda: _png(64, 48, _chunk(b"iCCP", b"p\0\0" + _deflated(b"\0" * 2**20, 512))),
    "a small picture with 512 MB of pixels": lambda: _png(64, 48, pixels=_deflated(b"\0" * 2**20, 512)),
    "a TIFF of 60,000 x 60,000 px": lambda: _tiff(60_000, 60_000),
    "a TIFF with a tag of 4 GB": lambda: _tiff(64, 48, (33432, 2, 2**32 - 1, 8)),
    "a TIFF with a billion offsets": lambda: _tiff(64, 48, (330, 4, 2**30, 8)),
    "a BMP of 50,000 x 50,000 px": lambda: b"BM" + struct.pack(
        "<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0
    ),
    "a PPM of 50,000 x 50,000 px": lambda: b"P6\n50000 50000\n255\n",
    "a PPM with a size of a million digits": lambda: b"P6\n" + b"9" * 1_000_000 + b" 1\n255\n",
}  # fmt: skip
HARMLESS = ("a small picture with 512 MB of pixels",)  # no more of it is unpacked than the picture needs


@pytest.fixture(scope="module")
def burst(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each bomb did: what was said, the memory it took and the seconds."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = [images.save_picture(folder, size=(640, 480)), *(folder / str(number) for number in range(len(BOMBS)))]
    for path, make in zip(paths[1:], BOMBS.values(), strict=True):
        path.write_bytes(make())
    words = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no library's warning either
    return dict(zip(BOMBS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_decompression_bomb_is_refused(
    bomb: str, burst: Mapping[str, Mapping[str, Any]], record: Callable[[Row], None]
) -> None:
    found = burst[bomb]
    lost = int(found["mb"] > BOMB_MOST_MB) + int(found["s"] > BOMB_MOST_S)
    record(Row(fault="a decompression bomb", injected=1, lost=lost, again_s=found["s"]))
    assert bool(found["said"]) == (bomb not in HARMLESS)
    assert found["mb"] <= BOMB_MOST_MB
    assert found["s"] <= BOMB_MOST_S


def _vanish(path: Path) -> None:
    path.unlink()


def _change(path: Path) -> None:
    """Another picture of the same size."""
    path.write_bytes(images.save_picture(path.parent.parent, seed=999).read_bytes())


def _break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


FAULTS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "vanishes": (_vanish, "cannot be read"),
    "changes": (_change, "holds another picture"),
    "breaks": (_break, "broken or cut off"),
}
HARM = pytest.mark.parametrize("fault", FAULTS)


@HARM
@pytest.mark.parametrize("cached", [True, False])
def test_a_worker_names_the_picture(fault: str, cached: bool, tmp_path: Path, record: Callable[[Row], None]) -> None:
    """Without a cache at the next access; with one only where a size is not in it yet, and so of no consequence."""
    harm, sentence = FAULTS[fault]
    data = load_data(images.write_data(tmp_path / "data"))
    cache = tmp_path / "cache"
    if not cached:
        cache.write_text("a file where the folder would be")
    config = TrainConfig(model="fcos_tiny", weights="none", image_size=(64, 64), num_epochs=2, batch_size=4)

    def begin(number: int, size: int) -> None:
        worker.begin(
            Assignment(
                config=config.model_copy(update={"image_size": (size, size)}),
                metric="ap50", after_epoch=0, folder=tmp_path / str(number), cache=cache,
            )
        )  # fmt: skip

    worker = Worker(data, threads=1, reports=train)
    begin(1, 64)
    worker.epoch()
    harm(data.train.images[2].path)
    if cached:
        assert worker.epoch().epoch == 2
        begin(2, 96)
    with pytest.raises(DataError, match=rf"rgb-3\.png: {sentence}"):
        worker.epoch()
    worker.release()
    left = list(cache.glob("*96x96*")) if cached else []
    record(Row(fault=f"a picture that {fault} under a worker", injected=1, lost=len(left)))
    assert left == []  # no cache of what was not checked


@pytest.mark.slow
def test_a_search_ends_in_a_sentence_and_goes_on_when_the_pictures_are_back(
    tmp_path: Path, record: Callable[[Row], None]
) -> None:
    """Each fault in a session of its own, all in one search; then all is as in a search that nobody disturbed."""
    with _night(tmp_path / "harmed") as night:
        picture = night.folder / "data/train/images/rgb-3.png"
        annotations = night.folder / "data/train/annotations.json"
        sound, sound_annotations = picture.read_bytes(), annotations.read_bytes()
        again_s: list[float] = []
        night.begin()
        for harm, sentence in FAULTS.values():
            known = _epochs(night.table)
            again_s.append(night.wait_for(lambda table, known=known: _epochs(table) > known))  # type: ignore[misc]
            harm(picture)
            for file in cache_folder(night.results).glob("*.npy"):
                file.unlink()  # as anybody may at any time; the next trial decodes all pictures again
            assert night.ended() == 2
            _is_reported(night, picture, sentence)
            if harm is _change:
                _is_refused(night, "train/images changed since .* would not be comparable")
            picture.write_bytes(sound)
            if harm is _break:
                images.edit_json(annotations, lambda document: document["annotations"][0].update(area=1))
                _is_refused(night, "train/annotations.json changed since .* would not be comparable")
                annotations.write_bytes(sound_annotations)
            night.resume()
        assert night.ended() == 0, night.said
        found, repeated = outcome(night.table), repeated_epochs(night.journal)
    with _night(tmp_path / "calm") as calm:
        undisturbed = outcome(calm.run())
    lost = sum(found.get(number) != trial for number, trial in undisturbed.items()) + repeated
    for fault in FAULTS:
        record(Row(fault=f"a picture that {fault} in mid-search", injected=1, lost=lost, again_s=max(again_s[1:])))
    record(Row(fault="annotations that change between start and resume", injected=1, lost=lost))
    assert found == undisturbed
    assert repeated == 0


@contextmanager
def _night(folder: Path) -> Iterator[Night]:
    folder.mkdir()
    night = Night(folder=folder)
    try:
        yield night
    finally:
        night.close()


def _epochs(table: Table) -> int:
    return sum(trial.epochs for trial in table.trials.values())


def _is_reported(night: Night, picture: Path, sentence: str) -> None:
    """One sentence that names the file and the command; no trial is to blame."""
    last = night.said.splitlines()[-2:]
    assert f"{picture}: {sentence}" in last[0]
    assert "the results would not be comparable" in last[0]
    assert "--resume" in last[1]
    assert "Traceback" not in night.said
    states = [trial.state for trial in night.table.trials.values()]
    assert states.count("interrupted") == 1
    assert not {"failed", "infeasible"} & set(states)
    assert night.left_behind() == []


def _is_refused(night: Night, sentence: str) -> None:
    before = night.journal.read_bytes()
    night.resume()
    assert night.ended() == 2
    assert re.search(sentence, night.said)
    assert night.journal.read_bytes() == before
