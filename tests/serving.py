"""Small factories for tests of the inspection server: a bundle, a running server, a client."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tests.images import write_json
from tests.models import SIZE, calibration, picture, write_models
from vqc.inference.bundle import name_champion, write_golden, write_manifest
from vqc.inference.calibration import save_calibration
from vqc.inference.model_file import open_predictor
from vqc.serving.app import InspectionServer
from vqc.serving.settings import ServingSettings

TOKEN = "a token of a test, long enough"
# Three thresholds; of 40 defective and 20 good parts.
TRADE_OFF = {
    "thresholds": [0.2, 0.5, 0.8], "escaped": [0, 2, 9], "overkilled": [7, 1, 0], "defective": 40, "good": 20,
}  # fmt: skip


def jpeg(seed: int, size: tuple[int, int] = (96, 128)) -> bytes:
    """A photograph [h, w] of blobs, as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(picture(seed, size)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_bundle(
    folder: Path, *, threshold: float = 0.5, model: str = "fcos_tiny", size: tuple[int, int] = SIZE
) -> Path:
    """A bundle whose detector has opinions; as export_best makes it, less what the server does not read."""
    folder.mkdir(parents=True)
    weights, exported = write_models(folder, model=model, size=size)
    save_calibration(exported, calibration(exported, thresholds=(threshold,) * 3))
    weights.unlink()
    write_json(folder / "trade_off.json", TRADE_OFF)
    golden = []
    for seed in (1, 2):
        golden.append(folder.parent / f"{seed}.jpg")
        golden[-1].write_bytes(jpeg(seed))
    write_golden(folder, golden, open_predictor(exported))
    write_manifest(folder)
    name_champion(folder.parent, folder)
    return folder


def write_promoted(folder: Path) -> Path:
    """The bundles 'first', the champion, and 'second', whose threshold is higher."""
    write_bundle(folder / "second", threshold=0.75)
    write_bundle(folder / "first")
    return folder


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self.address = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, *, body: Any = None, json_body: Any = None, **headers: str) -> Answer:
        """Send a request; underscores in the names of headers are dashes."""
        named = {**self._headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if json_body is not None:
            body, named["Content-Type"] = json.dumps(json_body).encode(), "application/json"
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Answer(status=response.status, headers=response.headers, body=response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def inspect(self, data: bytes, **headers: str) -> Answer:
        return self.ask("POST", "/v1/inspections", body=data, **{"Content_Type": "image/jpeg", **headers})


def settings_for(folder: Path, **changes: Any) -> ServingSettings:
    """Of a server whose bundle is ``folder/promoted/first``, at any free port."""
    return ServingSettings.model_validate(
        {
            "promoted": folder / "promoted", "store": folder / "store", "port": 0, "threads": 1,
            "explanation_masks": 16, **changes,
        }
    )  # fmt: skip


@contextmanager
def running(settings: ServingSettings) -> Iterator[tuple[InspectionServer, Client]]:
    """A server in a thread of this process; the client knows its token."""
    started = threading.Event()
    server = InspectionServer(settings, on_start=lambda url: started.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(30)
        yield server, Client(server.url, token=settings.token.get_secret_value() if settings.token else None)
    finally:
        server.stop()
        thread.join(60)


@contextmanager
def process(*words: str, python: str = sys.executable) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """``vqc serve`` in a process of its own, at any free port."""
    command = [python, "-m", "vqc.cli.main", "serve", "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUNBUFFERED": "1"}) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            assert first.startswith("Serving at "), first
            yield server, Client(first.split()[2])
        finally:
            server.kill()


def predicted(bundle: Path, data: bytes, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and verdict of ``vqc predict`` on one photograph."""
    from vqc.cli.main import main

    photograph = folder / "photograph.jpg"
    photograph.write_bytes(data)
    out = folder / "predicted"
    assert main(["predict", "--model", str(bundle / "model.onnx"), "--images", str(photograph), "--out", str(out)]) == 0
    rows = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    verdicts = json.loads((out / "verdicts.json").read_text(encoding="utf-8"))
    return rows, verdicts["images"][0]


def png_of(width: int, height: int) -> bytes:
    """A black picture that is small as a file, whatever its size in pixels."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(file, "PNG", optimize=True)
    return file.getvalue()
