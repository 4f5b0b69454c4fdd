"""Whatever a COCO file says: nothing raises, nothing outside the folder is opened, and what is accepted is sound."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import images
from tests.watching import Watch
from vqc.data.dataset import check_data

OUTSIDE = (
    "../../../secret.png",
    "..\\..\\..\\secret.png",
    "a/../../../../secret.png",
    "/etc/passwd",
    "C:\\a.png",
    "..",
    ".",
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([1, 3, 48, 64])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(OUTSIDE)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
IMAGE = st.fixed_dictionaries(
    {
        "id": st.integers(1, 4) | SCALARS,
        "file_name": st.sampled_from(["rgb-1.png", "rgb-2.png", *OUTSIDE]) | SCALARS,
        "width": st.just(64) | SCALARS,
        "height": st.just(48) | SCALARS,
    }
)
BOX = st.fixed_dictionaries(
    {
        "id": st.integers(1, 9) | SCALARS,
        "image_id": st.integers(1, 4) | SCALARS,
        "category_id": st.just(3) | SCALARS,
        "bbox": st.lists(st.floats(-5, 70) | SCALARS, min_size=3, max_size=5),
    },
    optional={"area": SCALARS, "iscrowd": SCALARS},
)
DOCUMENT = st.fixed_dictionaries(
    {
        "categories": st.just(list(images.CATEGORIES)) | ANYTHING,
        "images": st.lists(IMAGE | ANYTHING, max_size=4) | ANYTHING,
        "annotations": st.lists(BOX | ANYTHING, max_size=6) | ANYTHING,
    }
)
THOROUGH = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder beside a picture it must not touch."""
    root = images.write_data(tmp_path_factory.mktemp("fuzz") / "parts", train=3)
    images.save_picture(root.parent, seed=77).rename(root.parent / "secret.png")
    (root / "train/images/broken.png").write_bytes(b"no picture")
    images.edit_json(root / "val/annotations.json", lambda d: d["images"].append(images.image(9, "broken.png")))
    (root / "val/images/broken.png").write_bytes(b"no picture")
    check_data(root)  # a broken picture makes Pillow import all its formats: now, not while files are watched
    (root / "val/images/broken.png").unlink()
    images.edit_json(root / "val/annotations.json", lambda d: d["images"].pop())
    return root


@THOROUGH
@given(content=DOCUMENT | ANYTHING)
@example(content=images.document([images.image(id_, name) for id_, name in enumerate(OUTSIDE)]))
def test_no_content_raises_or_leads_out_of_the_folder(root: Path, watch: Watch, content: object) -> None:
    images.write_json(root / "train/annotations.json", content)
    watch.opened.clear()
    watch.on = True
    _, findings = check_data(root)
    watch.on = False
    opened = [Path(path) for path in watch.opened]
    assert root / "train/annotations.json" in opened
    assert [path for path in opened if not path.resolve().is_relative_to(root.resolve())] == []
    assert all(str(finding).isprintable() for finding in findings)


@THOROUGH
@given(
    x=st.floats(-1.5, 2) | st.floats(2, 70),
    y=st.floats(-1.5, 2) | st.floats(2, 70),
    right=st.floats(62.5, 65.5) | st.floats(0, 70),  # often near the border, which is at 64
    bottom=st.floats(46.5, 49.5) | st.floats(0, 70),  # at 48
)
@example(x=0.0, y=0.0, right=1e-50, bottom=10.0)  # no width is left of it in float32
@example(x=0.0, y=60.0, right=10.0, bottom=60.0 + 1e-6)
def test_a_box_is_refused_or_inside_and_not_empty(root: Path, x: float, y: float, right: float, bottom: float) -> None:
    boxes = [images.annotation(1, 1, (x, y, right - x, bottom - y)), images.annotation(2, 2)]
    entries = [images.image(1, "rgb-1.png"), images.image(2, "rgb-2.png")]
    images.write_json(root / "train/annotations.json", images.document(entries, boxes))
    data, findings = check_data(root)
    wrong = right <= x or bottom <= y or min(x, y) < -1.02 or right > 65.02 or bottom > 49.02
    fine = right > x + 0.01 and bottom > y + 0.01 and min(x, y) >= 0 and right <= 64 and bottom <= 48
    assert not (wrong and data is not None)
    assert not (fine and data is None), findings
    kept = [] if data is None else data.train.images[0].boxes.tolist()
    assert all(0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 48 for x1, y1, x2, y2 in kept)
