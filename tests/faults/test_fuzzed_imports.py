"""Whatever an export holds: a sentence or a sound folder, in time, in little memory, and of its own files."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import exports, images
from tests.faults.conftest import Row
from tests.faults.fuzzing import FRAGMENTS, LINUX, MOST_GROWTH, MOST_PARSES_USED, NAMES, Worst, battered, growth
from tests.watching import Watch
from vqc.data.annotations import read_annotations
from vqc.data.findings import Report
from vqc.data.importers.importing import import_data
from vqc.errors import DataError

FEW, MANY = 20, 10_000
TOKEN = re.compile(rb"""[^\s<>{}\[\]",:;=]+""")
DOCUMENTS = {".json", ".xml", ".txt", ".yaml", ".names", ".data"}
TOOLS: Mapping[str, Callable[[Path], Path]] = {**exports.PLAIN, **exports.SPLIT}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for an export, ``in``, with links that lead out of it to a picture that it must not touch."""
    place = tmp_path / "place"
    (place / "in").mkdir(parents=True)
    secret = images.save_picture(tmp_path, seed=77).rename(tmp_path / "secret.png")
    if LINUX:
        (place / "in/out.png").symlink_to(secret)
        (place / "in/loop").symlink_to("loop")
        (place / "in/round").symlink_to(".")
    return place


def read(place: Path, format_: str, watch: Watch, worst: Worst) -> str:
    """Import ``in``; what comes out must be sound and hold pictures of ``in`` alone."""
    out = place / "out"
    said = worst.measure(importing(place, format_, watch), watch, place)
    if not said:
        report = Report()
        for file in out.rglob("annotations.json"):
            assert read_annotations(file, name="", report=report) is not None
        assert report.errors == []
        secret = (place.parent / "secret.png").read_bytes()
        assert secret not in [path.read_bytes() for path in out.rglob("*.png")]
        shutil.rmtree(out)
    assert [path.name for path in place.iterdir()] == ["in"]
    return said


def importing(place: Path, format_: str, watch: Watch) -> Callable[[], object]:
    """Of ``in`` to ``out``."""

    def load() -> None:
        watch.on = False
        shutil.rmtree(place / "out", ignore_errors=True)  # of the reading before, where it is measured again
        watch.on = True
        import_data(place / "in", place / "out", format_=format_, unlabelled="leave-out")

    return load


def damaged(content: bytes, draw: random.Random) -> bytes:
    """With one word replaced, or a few bytes."""
    words = list(TOKEN.finditer(content))
    if not words or draw.random() < 0.4:
        return battered(content, draw.randrange(2**32), draw.randrange(1, 8))
    word, other = draw.choice(words), draw.choice((*FRAGMENTS, *NAMES)).encode("utf-8", "surrogatepass")
    return content[: word.start()] + other + content[word.end() :]


@pytest.mark.parametrize("files", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tool", TOOLS)
def test_fuzzed_exports_are_refused_in_a_sentence_or_sound(
    tool: str, files: int, place: Path, watch: Watch, record: Callable[[Row], None]
) -> None:
    root, format_ = TOOLS[tool](place / "in"), tool.split()[0]
    worst, draw = Worst(), random.Random(0)
    assert read(place, format_, watch, worst) == ""  # sound as it is
    documents = [path for path in sorted(root.rglob("*")) if path.suffix in DOCUMENTS and not path.is_symlink()]
    for _ in range(files - 1):
        file = draw.choice(documents)
        sound = file.read_bytes()
        file.write_bytes(damaged(sound, draw))
        read(place, format_, watch, worst)
        file.write_bytes(sound)
    worst.record(record, fault=f"a fuzzed export: {format_}")


def _many(text: str, count: int) -> str:
    return "".join(text.replace("N", str(number)) for number in range(count))


def _coco(annotations: str) -> str:
    images_ = '[{"id": 0, "file_name": "rgb-1.png"}]'
    return f'{{"images": {images_}, "categories": [{{"id": 0, "name": "a"}}], "annotations": [{annotations}]}}'


def _shape(segmentation: str) -> str:
    return f'{{"image_id": 0, "category_id": 0, "segmentation": {segmentation}}}'


BOX = '<box label="a" xtl="1" ytl="2" xbr="9" ybr="8"/>'
HEAVY: Mapping[str, tuple[str, int, Callable[[int], str]]] = {  # the file, and so many entries or letters
    "coco: nested lists": ("a.json", 5_000_000, lambda n: '{"images" "categories"' + "[" * n),
    "coco: a polygon of a million corners": ("a.json", 1_000_000, lambda n: _coco(_shape("[[" + "1,2," * n + "3,4]]"))),
    "coco: a compressed mask of forty megabytes": (
        "a.json", 40_000_000, lambda n: _coco(_shape('{"size": [48, 64], "counts": "' + "1" * n + '"}')),
    ),
    "coco: a mask whose run length never ends": (
        "a.json", 40_000_000, lambda n: _coco(_shape('{"size": [48, 64], "counts": "' + "o" * n + '"}')),
    ),
    "coco: long names of pictures": (
        "a.json", 500,
        lambda n: '{"images": [' + ",".join(['{"id": 0, "file_name": "' + "a/" * 40_000 + '"}'] * n)
        + '], "categories": [], "annotations": []}',
    ),
    "cvat: nested elements": ("a.xml", 900_000, lambda n: "<annotations>" + "<a>" * n),
    "cvat: entities": ("a.xml", 4, lambda n: '<!DOCTYPE a [<!ENTITY b "' + "c" * n + '">]><annotations/>'),
    "cvat: a hundred thousand boxes": (
        "a.xml", 100_000,
        lambda n: f'<annotations><image name="rgb-1.png" width="64" height="48">{BOX * n}</image></annotations>',
    ),
    "labelme: nested shapes": ("a.json", 5_000_000, lambda n: '{"imagePath": "rgb-1.png", "shapes": ' + "[" * n),
    "voc: nested objects": ("a.xml", 500_000, lambda n: "<annotation>" + "<object>" * n + "</object>" * n),
    "yolo: nested lists": ("data.yaml", 90_000, lambda n: "names:\n" + "[" * n),
    "yolo: references": (
        "data.yaml", 3_000,
        lambda n: "names: [a]\n" + _many("aN: &aN [*aM, *aM, *aM, *aM]\n".replace("*aM", "*a0"), n),
    ),
    "yolo: four megabytes of boxes": ("rgb-1.txt", 200_000, lambda n: "0 0.5 0.5 0.1 0.1\n" * n),
    "yolo: a line of four megabytes": ("rgb-1.txt", 1_000_000, lambda n: "0 " + "0.5 " * n),
}  # fmt: skip


USED = {  # all others are refused
    "coco: a polygon of a million corners", "cvat: a hundred thousand boxes", "yolo: four megabytes of boxes",
}  # fmt: skip


@pytest.mark.parametrize("case", HEAVY)
def test_heavy_exports_cost_little(case: str, place: Path, watch: Watch, record: Callable[[Row], None]) -> None:
    name, count, make = HEAVY[case]
    format_ = case.partition(":")[0]
    exports.pictures(place / "in")
    (place / "in/data.yaml").write_text("names: [a]", encoding="utf-8")

    def reading(entries: int) -> Callable[[], object]:
        (place / "in" / name).write_text(make(entries), encoding="utf-8")
        return importing(place, format_, watch)

    reading(count)
    worst = Worst(most_parses=MOST_PARSES_USED if case in USED else 25)
    read(place, format_, watch, worst)
    assert bool(worst.used) == (case in USED)
    assert growth(reading, count, watch) <= MOST_GROWTH
    worst.record(record, fault="a heavy export")


def test_a_file_without_end_is_refused(place: Path) -> None:
    if not LINUX:
        pytest.skip("no such file on this system")
    exports.cvat(place / "in")
    (place / "in/annotations/instances_default.json").unlink()
    (place / "in/annotations/instances_default.json").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="no annotations found"):
        import_data(place / "in", place / "out")
