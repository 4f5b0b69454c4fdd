"""What operators are asked, and what they answered as training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import TOKEN, Client, jpeg, running, settings_for
from vqc.data.dataset import read_split
from vqc.data.findings import Report
from vqc.data.importers.reviews import fetch_reviews
from vqc.errors import DataError
from vqc.serving.reviews import NO_BOX, requested_review, write_reviews

SHARE = 0.05
BOX = {"category_id": 7, "bbox": [10.0, 8.0, 40.0, 30.5]}


def request(
    id_: str, *, score: float = 0.9, threshold: float = 0.5, readable: bool = True, seed: int = 0
) -> str | None:
    return requested_review(id_, score=score, threshold=threshold, readable=readable, odds=2.0, share=SHARE, seed=seed)


@pytest.mark.parametrize(
    ("score", "threshold", "readable", "asked"),
    [
        (0.34, 0.5, True, True), (0.66, 0.5, True, True), (0.32, 0.5, True, False), (0.68, 0.5, True, False),
        (0.03, 0.05, True, True), (0.09, 0.05, True, True), (0.02, 0.05, True, False), (0.14, 0.05, True, False),
        (0.0, 0.05, True, False), (0.0, 0.5, False, True),
    ],
)  # fmt: skip
def test_a_person_is_asked_about_everything_that_is_unsure(
    score: float, threshold: float, readable: bool, asked: bool
) -> None:
    found = {request(f"i{number}", score=score, threshold=threshold, readable=readable) for number in range(50)}
    assert (found == {"unsure"}) == asked


def test_a_fixed_share_of_the_rest_is_asked_about_by_chance() -> None:
    found = [request(f"i{number}") for number in range(4000)]
    assert found.count("unsure") == 0
    assert found.count("random") / 4000 == pytest.approx(SHARE, rel=0.25)
    assert found == [request(f"i{number}") for number in range(4000)]
    assert found != [request(f"i{number}", seed=1) for number in range(4000)]


@given(score=st.floats(0, 1), threshold=st.floats(0, 1), id_=st.text())
def test_what_is_asked_about_depends_on_nothing_else(score: float, threshold: float, id_: str) -> None:
    once = request(id_, score=score, threshold=threshold)
    assert once == request(id_, score=score, threshold=threshold)
    assert score != threshold or once == "unsure"


def review(client: Client, data: bytes, verdict: str, *boxes: dict[str, Any]) -> str:
    """Inspect a photograph and say what it is; the inspection's id."""
    found = client.inspect(data).json
    answer = client.ask(
        "PUT", f"/v1/inspections/{found['id']}/review", json_body={"verdict": verdict, "boxes": boxes},
        If_Match=found["etag"],
    )  # fmt: skip
    assert answer.status == 200
    return str(found["id"])


def same(folder: Path) -> tuple[list[Any], list[Any]]:
    content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    assert {path.name for path in (folder / "images").iterdir()} == {one["file_name"] for one in content["images"]}
    return content["images"], content["annotations"]


def test_reviews_leave_the_server_as_coco_with_where_they_come_from(promoted: Path, tmp_path: Path) -> None:
    """By the network from a running server, and from its folder, running or not."""
    settings = settings_for(tmp_path, promoted=promoted, token=TOKEN)
    with running(settings) as (server, client):
        good = review(client, jpeg(1), "good")
        bad = review(client, jpeg(2), "defective", BOX, {**BOX, "category_id": 3})
        review(client, jpeg(3), "defective")
        client.inspect(jpeg(4))
        address = f"{server.url}v1/reviews.coco.json"
        document = fetch_reviews(address, tmp_path / "fetched", token=TOKEN)
        write_reviews(settings.store, tmp_path / "copied")
        with pytest.raises(DataError, match="answers 401; expected the server's --token"):
            fetch_reviews(address, tmp_path / "refused")
    write_reviews(settings.store, tmp_path / "stopped")
    assert document["info"]["left_out"] == {NO_BOX: 1}
    first, second = document["images"]
    assert [first["inspection_id"], second["inspection_id"]] == [good, bad]
    assert (first["width"], first["height"], first["coco_url"]) == (128, 96, f"/v1/inspections/{good}/image")
    assert first["group"] != second["group"]
    assert first["reviewed_at"] < second["reviewed_at"]
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in document["annotations"]] == [
        (2, 7, BOX["bbox"]), (2, 3, BOX["bbox"]),
    ]  # fmt: skip
    report = Report()
    found = read_split(tmp_path / "fetched", "", report)
    assert found is not None
    assert (report.findings, [record.defective for record in found[0].images]) == ([], [False, True])
    assert same(tmp_path / "fetched") == same(tmp_path / "copied") == same(tmp_path / "stopped")


def test_a_good_part_with_boxes_cannot_be_said(client: Client) -> None:
    found = client.inspect(jpeg(5)).json
    answer = client.ask(
        "PUT", f"/v1/inspections/{found['id']}/review", json_body={"verdict": "good", "boxes": [BOX]},
        If_Match=found["etag"],
    )  # fmt: skip
    assert answer.status == 422
