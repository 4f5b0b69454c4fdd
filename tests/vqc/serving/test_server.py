"""An inspection from beginning to end, on a real server with a real detector."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.images import ORIENTATION
from tests.serving import Client, jpeg, png_of, predicted, process, running, settings_for


def review(client: Client, inspection: dict[str, Any], **content: Any) -> Any:
    return client.ask(
        "PUT", f"/v1/inspections/{inspection['id']}/review", json_body=content, If_Match=f'"{inspection["etag"]}"'
    )


def rotated(data: bytes) -> bytes:
    import io

    from PIL import Image

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [jpeg(3), jpeg(4, (300, 200)), rotated(jpeg(5, (90, 200))), jpeg(6, (801, 1103)), rotated(jpeg(7, (801, 1103)))],
)
def test_the_answer_is_that_of_vqc_predict(client: Client, promoted: Path, tmp_path: Path, data: bytes) -> None:
    answer = client.inspect(data)
    rows, verdict = predicted(promoted / "first", data, tmp_path)
    got = answer.json
    assert answer.status == 201
    assert len(rows) > 3
    expected = [{key: row[key] for key in ("category_id", "bbox", "score")} for row in rows]
    assert [{key: one[key] for key in ("category_id", "bbox", "score")} for one in got["detections"]] == expected
    assert got["verdict"] == {"pass": "good", "fail": "defective"}[verdict["verdict"]]
    assert got["score"] == verdict["worst_score"]
    assert sum(one["defect"] for one in got["detections"]) == verdict["defects"]


def test_what_was_answered_is_in_the_history_with_its_photograph(client: Client) -> None:
    data = jpeg(6)
    answer = client.inspect(data, X_Filename="C%3A%5Cparts%5Cgeh%C3%A4use.jpg")
    location = answer.headers["Location"]
    assert answer.json["name"] == "gehäuse.jpg"
    assert client.get(location).json == answer.json
    photograph = client.get(answer.json["image"]["url"])
    assert (photograph.body, photograph.headers["Content-Type"]) == (data, "image/jpeg")
    assert client.get("/v1/inspections?limit=1").json["items"] == [answer.json]


def test_a_form_is_taken_as_the_bytes_are(client: Client) -> None:
    data = jpeg(7)
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="part.jpg"\r\n\r\n' + data + b"\r\n--b--\r\n"
    by_form = client.inspect(form, Content_Type="multipart/form-data; boundary=b").json
    assert by_form["name"] == "part.jpg"
    assert by_form["detections"] == client.inspect(data).json["detections"]


@pytest.mark.parametrize(
    ("data", "status", "recorded"),
    [(jpeg(8)[:900], 422, True), (png_of(9000, 6000), 422, True), (b"GIF89a", 415, False), (b"", 415, False)],
)
def test_what_cannot_be_read_is_refused_and_a_photograph_is_recorded(
    client: Client, data: bytes, status: int, recorded: bool
) -> None:
    before = client.get("/v1/inspections?limit=1&verdict=unreadable").json["items"]
    answer = client.inspect(data)
    after = client.get("/v1/inspections?limit=1&verdict=unreadable").json["items"]
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert (after != before) == recorded
    assert not recorded or (after[0]["verdict"], after[0]["reason"]) == ("unreadable", answer.json["detail"])


def test_a_review_is_written_once_for_each_state(client: Client) -> None:
    inspection = client.inspect(jpeg(9)).json
    box = {"category_id": 3, "bbox": [1, 2, 30, 20]}
    first = review(client, inspection, verdict="defective", boxes=[box], reviewer="Ada")
    again = review(client, inspection, verdict="good")
    assert (first.status, again.status) == (200, 412)
    assert first.json["review"]["boxes"] == [{"category_id": 3, "bbox": [1.0, 2.0, 30.0, 20.0]}]
    assert first.headers["ETag"] == f'"{first.json["etag"]}"'
    assert review(client, first.json, verdict="good").json["review"]["verdict"] == "good"
    assert client.ask("PUT", f"/v1/inspections/{inspection['id']}/review", json_body={"verdict": "good"}).status == 428


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"verdict": "good", "boxes": [{"category_id": 3, "bbox": [1, 1, 5, 5]}]}, "expected none on a good part"),
        ({"verdict": "defective", "boxes": [{"category_id": 4, "bbox": [1, 1, 5, 5]}]}, "expected one of 3, 7, 9"),
        ({"verdict": "defective", "boxes": [{"category_id": 3, "bbox": [1, 1, 500, 5]}]}, "inside 128 x 96 px"),
        ({"verdict": "maybe"}, "verdict"),
    ],
)
def test_a_review_that_cannot_be_is_refused(client: Client, content: dict[str, Any], says: str) -> None:
    answer = review(client, client.inspect(jpeg(10)).json, **content)
    assert answer.status == 422
    assert says in answer.json["detail"]


def test_a_heat_map_is_as_large_as_the_photograph(client: Client) -> None:
    import io

    from PIL import Image

    inspection = client.inspect(jpeg(11, (150, 200))).json
    asked = client.ask("POST", f"/v1/inspections/{inspection['id']}/explanations")
    assert asked.status == 202
    job = asked.json
    for _ in range(600):
        if job["status"] in ("done", "failed"):
            break
        time.sleep(0.1)
        job = client.get(asked.headers["Location"]).json
    assert job["status"] == "done"
    map_ = Image.open(io.BytesIO(client.get(job["image_url"]).body))
    assert (map_.size, map_.mode) == ((200, 150), "RGBA")
    assert map_.getchannel("A").getextrema()[0] == 0
    assert client.ask("POST", f"/v1/inspections/{inspection['id']}/explanations").json == job


def test_observers_are_told_of_each_inspection_and_may_fail(home: Path) -> None:
    told = []

    def failing(inspection: Any, photograph: Any) -> None:
        raise RuntimeError(inspection.id)

    def note(inspection: Any, photograph: Any) -> None:
        told.append(inspection.id)

    with running(settings_for(home)) as (server, client):
        server.serving.observers += [failing, note]
        answers = [client.inspect(jpeg(seed)).json["id"] for seed in range(3)]
    assert told == answers


SERVE = """
import http.client, sys, threading
from pathlib import Path
from urllib.parse import urlsplit
import vqc.cli.main, vqc.cli.serve
from vqc.serving.app import InspectionServer
from vqc.serving.settings import ServingSettings
bundle, store, photograph = map(Path, sys.argv[1:])
started = threading.Event()
server = InspectionServer(ServingSettings(bundle=bundle, store=store, port=0), on_start=lambda url: started.set())
thread = threading.Thread(target=server.run)
thread.start()
started.wait(30)
def ask(method, path, body=None):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    connection.request(method, path, body)
    response = connection.getresponse()
    response.read()
    return response.status
print([ask("POST", "/v1/inspections", photograph.read_bytes()), ask("GET", "/v1/operating-curve")])
server.stop()
thread.join()
print(sorted({"torch", "ray", "mlflow", "tune", "optuna", "matplotlib"} & set(sys.modules)))
"""


def test_the_process_holds_neither_torch_nor_the_search(promoted: Path, tmp_path: Path) -> None:
    (tmp_path / "part.jpg").write_bytes(jpeg(12))
    words = [sys.executable, "-c", SERVE, str(promoted / "first"), str(tmp_path / "store"), str(tmp_path / "part.jpg")]
    printed = subprocess.run(words, capture_output=True, check=True, encoding="utf-8").stdout
    assert printed.splitlines() == ["[201, 200]", "[]"]


def test_a_killed_server_has_what_it_answered(promoted: Path, tmp_path: Path) -> None:
    words = (str(promoted / "first"), "--store", str(tmp_path))
    with process(*words) as (server, client):
        answered = client.inspect(jpeg(13)).json
        server.kill()
        server.wait()
    with process(*words) as (_, client):
        assert client.get(f"/v1/inspections/{answered['id']}").json == answered
        assert client.get(answered["image"]["url"]).body == jpeg(13)
