"""The loop, with nothing stood in for: searched, promoted, served, inspected, corrected, searched again, compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Client, process
from vqc.data.dataset import ImageRecord, load_data
from vqc.data.synthetic import write_sample
from vqc.inference.bundle import CHALLENGER, CHAMPION

ROOT = Path(__file__).parent.parent
INSPECTED, CORRECTED = 40, 10
SMALL = {
    "train": {"model": "fcos_tiny", "weights": "none", "image_size": 96, "num_epochs": 3, "batch_size": 4,
              "learning_rate": 2e-3},
    "space": {"learning_rate": {"low": 5e-4, "high": 1e-2, "log": True}},
    "confirm": 0,
}  # fmt: skip


def ran(place: Path, *words: str) -> str:
    """What a command printed, once it has ended well."""
    environment = {key: value for key, value in os.environ.items() if key != "UV_RUN_RECURSION_DEPTH"}
    done = subprocess.run(
        [sys.executable, *words], cwd=place, capture_output=True, encoding="utf-8", timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def search(place: Path, name: str, *words: str) -> str:
    script = str(ROOT / "tune" / "search.py")
    return ran(place, script, "--trials", "2", "--name", name, "--data", "data", "--config", "small.json", *words)


def correct(client: Client, inspection: dict[str, Any], truth: ImageRecord, ids: list[int]) -> None:
    """What is really on the photograph, as an operator would draw it."""
    boxes = [
        {"category_id": ids[label - 1], "bbox": [left, top, right - left, bottom - top]}
        for label, (left, top, right, bottom) in zip(truth.labels.tolist(), truth.boxes.tolist(), strict=True)
    ]
    said = {"verdict": "defective" if truth.defective else "good", "boxes": boxes, "reviewer": "test"}
    path = f"/v1/inspections/{inspection['id']}/review"
    assert client.ask("PUT", path, json_body=said, If_Match=inspection["etag"]).status == 200


@pytest.mark.slow
def test_what_operators_correct_is_in_the_next_search_and_the_next_promotion(tmp_path: Path) -> None:
    write_sample(tmp_path / "data", images={"train": 32, "val": 16, "test": 16})
    line = load_data(write_sample(tmp_path / "line", seed=7, images={"train": INSPECTED, "val": 4, "test": 1}))
    (tmp_path / "small.json").write_text(json.dumps(SMALL), encoding="utf-8")
    promoted = tmp_path / "results" / "promoted"
    search(tmp_path, "before")
    ran(tmp_path, str(ROOT / "tune" / "export_best.py"), "before")
    champion = json.loads((promoted / CHAMPION).read_text(encoding="utf-8"))["bundle"]

    ids = [category.id for category in line.categories]
    with process(str(promoted / champion), "--store", str(tmp_path / "results" / "serving")) as (_, client):
        inspected = []
        for record in line.train.images:
            answer = client.inspect(record.path.read_bytes(), Content_Type="image/png")
            assert answer.status == 201
            wrong = (answer.json["verdict"] == "defective") != record.defective
            inspected.append((not wrong, record.image_id, answer.json, record))
        assert len(inspected) == INSPECTED
        for _, _, inspection, record in sorted(inspected, key=lambda one: one[:2])[:CORRECTED]:  # wrong verdicts first
            correct(client, inspection, record, ids)
        address = f"http://{client.address}/v1/reviews.coco.json"
        said = ran(tmp_path, "-m", "vqc.cli.main", "import", address, "--out", "reviews")
        assert said.startswith(f"{CORRECTED} reviewed photographs, ")

    said = search(tmp_path, "after", "--reviews", "reviews")
    assert f"{CORRECTED} reviewed photographs added" in said
    (folder,) = (tmp_path / "results" / "data").iterdir()
    old, new = load_data(tmp_path / "data"), load_data(folder)
    places = Counter(one["place"] for one in json.loads((folder / "corrections.json").read_text(encoding="utf-8")))
    assert sum(places.values()) == CORRECTED
    for name in ("train", "val"):
        assert len(new.split(name).images) == len(old.split(name).images) + places[name]
    assert new.parts["test/images"] == old.parts["test/images"]
    assert new.parts["test/annotations.json"] == old.parts["test/annotations.json"]
    again = search(tmp_path, "third", "--reviews", "results/serving", "--dry-run")
    assert f"{CORRECTED} reviewed photographs added" in again or "were added before" in again

    said = ran(tmp_path, str(ROOT / "tune" / "export_best.py"), "after")
    verdict = " ".join(said.split())
    reason = r"version 2: (it promises .*; |version 1: )on test escapes \d+ of \d+ against \d+"
    assert re.search(f"champion, {reason}", verdict)
    week = re.search(r"on the newest reviewed week escapes \d+ of \d+ against \d+", verdict)
    assert (week is not None) == (places["reviewed"] > 0)
    (page,) = promoted.glob("after-*/signoff.html")
    assert ("Against the champion, on the newest reviewed week" in page.read_text(encoding="utf-8")) == bool(week)
    pointer = CHALLENGER if "not the champion" in verdict else CHAMPION
    assert json.loads((promoted / pointer).read_text(encoding="utf-8"))["bundle"].startswith("after-")
