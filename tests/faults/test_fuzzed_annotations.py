"""Whatever an annotation file or a picture holds: a sentence, in time, in little memory, and never a file elsewhere."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import images
from tests.faults.conftest import Row
from tests.faults.fuzzing import FRAGMENTS, LINUX, MOST_GROWTH, MOST_PARSES_USED, NAMES, Worst, battered, growth
from tests.vqc.data.test_annotations import DOCUMENT
from tests.watching import Watch
from vqc.data import annotations
from vqc.data.dataset import load_data
from vqc.errors import DataError

FEW, MANY = 300, 10_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder, with links that lead out of it and round in it, beside a picture that it must not touch."""
    root = images.write_data(tmp_path_factory.mktemp("fuzz") / "parts", train=3, val=2)
    shutil.rmtree(root / "test")
    secret = images.save_picture(root.parent, seed=77).rename(root.parent / "secret.png")
    folder = root / "train/images"
    if LINUX:
        (folder / "out.png").symlink_to(secret)
        (folder / "loop").symlink_to("loop")
        (folder / "round").symlink_to(".")
    return root


def read(content: bytes, root: Path, watch: Watch, worst: Worst) -> str:
    """Read a folder with this annotation file as everyone does; returns what is said, which must be a sentence."""
    return worst.measure(reading(content, root), watch, root)


def reading(content: bytes, root: Path) -> Callable[[], object]:
    """With this annotation file in the folder; the journal must be able to hold what is read."""
    (root / "train/annotations.json").write_bytes(content)
    return lambda: json.dumps(load_data(root).summary(), ensure_ascii=False).encode()


SOUND = images.document(
    [images.image(number, f"rgb-{number}.png") for number in (1, 2, 3)],
    [images.annotation(1, 1), images.annotation(2, 2, (30, 20, 24.5, 16), area=200)],
)


def _paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from _paths(child, (*path, key))


PATHS = list(_paths(SOUND))


def _with(path: tuple[Any, ...], text: str) -> str:
    """The sound file as JSON, with this text, JSON or not, in place of one value."""
    mark = "0a2c-mark"
    document = json.loads(json.dumps({"": SOUND}))
    place, last = document, ("", *path)
    for key in last[:-1]:
        place = place[key]
    place[last[-1]] = mark
    whole = json.dumps(document[""])
    return whole.replace(f'"{mark}"', text)


STRUCTURED = DOCUMENT.map(lambda content: json.dumps(content).encode())
ONE_VALUE = st.builds(
    _with, st.sampled_from(PATHS), st.sampled_from(FRAGMENTS) | st.sampled_from(NAMES).map(json.dumps)
)
CONTENT = (
    STRUCTURED
    | ONE_VALUE.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.builds(battered, st.just(json.dumps(SOUND).encode()), st.integers(0, 2**32), st.integers(1, 8))
    | st.binary(max_size=200)
)


def _fuzz(files: int, root: Path, watch: Watch, worst: Worst) -> None:
    @settings(
        max_examples=files, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(content=CONTENT)
    def one(content: bytes) -> None:
        read(content, root, watch, worst)

    one()


@pytest.mark.parametrize("files", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_fuzzed_files_are_refused_in_a_sentence(
    files: int, root: Path, watch: Watch, record: Callable[[Row], None]
) -> None:
    worst = Worst()
    read(_document(), root, watch, worst)
    assert worst.used == 1  # sound as it is: what is refused below is refused for what was changed
    if files == MANY:  # each fragment and name in place of each value
        for path, text in itertools.product(PATHS, (*FRAGMENTS, *map(json.dumps, NAMES))):
            read(_with(path, text).encode("utf-8", "surrogatepass"), root, watch, worst)
    _fuzz(max(FEW, files - worst.files), root, watch, worst)
    assert worst.files >= files
    assert worst.used < worst.files / 2
    worst.record(record, fault="a fuzzed annotation file")


def _document(**parts: str) -> bytes:
    """A COCO file of parts that are JSON already."""
    sound = {key: json.dumps(value) for key, value in SOUND.items()}
    return ("{" + ", ".join(f'"{key}": {text}' for key, text in {**sound, **parts}.items()) + "}").encode()


def _many(entry: str, count: int) -> str:
    """A list of so many entries, each with its number in place of N."""
    return "[" + ",".join(entry.replace("N", str(number)) for number in range(1, count + 1)) + "]"


BOX = '{"id":N,"image_id":1,"category_id":3,"bbox":[1,2,20.5,10.25],"iscrowd":0,"area":123.5}'
BOXES_USED = "two hundred thousand boxes on one picture"
HEAVY: Mapping[str, tuple[int, Callable[[int], bytes], str]] = {  # so many entries or letters, and what is said
    "nested lists": (5_000_000, lambda n: b"[" * n, "not JSON"),
    "nested objects": (1_000_000, lambda n: b'{"a":' * n, "not JSON"),
    "a number of four million digits": (4_000_000, lambda n: b'{"a": ' + b"9" * n + b"}", "not JSON"),
    "empty objects": (
        1_500_000, lambda n: _document(annotations=_many("{}", n)), "malformed|expected a whole number"
    ),
    "empty lists": (1_000_000, lambda n: _document(annotations=_many("[]", n)), "expected only objects"),
    "one letter of four bytes": (40_000_000, lambda n: _document(info='"\U0001f600' + "x" * n + '"'), ""),
    "names of ten thousand letters": (
        500, lambda n: _document(images=_many('{"id":N,"file_name":"N' + "a" * 9_900 + '","width":64,"height":48}', n)),
        "not a name that a file can have",
    ),
    "names of too many letters": (
        100,
        lambda n: _document(images=_many('{"id":N,"file_name":"N' + "a" * 90_000 + '","width":64,"height":48}', n)),
        "a name of at most 10,000 letters",
    ),
    "pictures that are not there": (
        50_000, lambda n: _document(images=_many('{"id":N,"file_name":"N.png","width":64,"height":48}', n)),
        "no such file",
    ),
    "categories and boxes of others": (
        50_000, lambda n: _document(
            categories=_many('{"id":N,"name":"N"}', n), annotations=_many(BOX.replace(":3,", ":-N,"), 2 * n // 5)
        ),
        "expected one of",
    ),
    BOXES_USED: (200_000, lambda n: _document(annotations=_many(BOX, n)), ""),
    "two million boxes on one picture": (
        2_000_000, lambda n: _document(annotations=_many("[0,0,0,0]", n)), "expected at most 6,000,000 values"
    ),
    "more than fifty megabytes": (annotations.MOST_BYTES, lambda n: b"{" + b" " * n, "a file of at most 50 MB"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEAVY)
def test_heavy_files_cost_little(case: str, root: Path, watch: Watch, record: Callable[[Row], None]) -> None:
    count, make, expected = HEAVY[case]
    worst = Worst(most_parses=MOST_PARSES_USED if case == BOXES_USED else Worst.most_parses)
    said = read(make(count), root, watch, worst)
    assert re.search(expected, said)
    assert bool(worst.used) == (expected == "")
    assert growth(lambda n: reading(make(n), root), count, watch) <= MOST_GROWTH
    worst.record(record, fault="a heavy annotation file")


@pytest.mark.parametrize(("power", "least", "most"), [(1, 3.0, MOST_GROWTH), (2, MOST_GROWTH, 200.0)])
def test_work_that_grows_with_the_files_square_is_seen(power: int, least: float, most: float, watch: Watch) -> None:
    count = round(36_000_000 ** (1 / power))  # so that both take about a second
    assert least < growth(lambda n: partial(sum, range(n**power)), count, watch) < most


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    if not LINUX:
        pytest.skip("no such file on this system")
    root = images.write_data(tmp_path / "parts")
    (root / "train/annotations.json").unlink()
    (root / "train/annotations.json").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="a file of at most 50 MB"):
        load_data(root)
