"""What the inspection server costs beside decoding and detector, and what it does under more load than it can bear.

``uv run python -m tests.benchmarks.serving [FOLDER]`` prints a table. The detector is the light one at 320 px with
random weights, on one thread; clients run on the same machine. FOLDER is where the history is written: on the disk
that is to be measured. "Bare" is decoding and detector in a loop, in a process of its own, without any server.
"""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil
from PIL import Image

from tests.serving import process, write_bundle

MODEL, SIZE = "fcos_lite0", (320, 320)
MB = 10**6
REQUESTS = 200
LOAD_S = 15.0
QUEUE = 8
OVERLOAD = 4
BARE = """
import sys, time, json
from pathlib import Path
from vqc.inference.model_file import open_predictor
predictor = open_predictor(Path(sys.argv[1]) / "model.onnx", threads=1)
data = Path(sys.argv[2]).read_bytes()
times = []
for _ in range(5):
    predictor.detect(predictor.decode(data))
cpu_s = time.process_time()
for _ in range(int(sys.argv[3])):
    started_s = time.perf_counter()
    predictor.detect(predictor.decode(data))
    times.append(time.perf_counter() - started_s)
print(json.dumps([times, (time.process_time() - cpu_s) / len(times)]))
"""


@dataclass(kw_only=True)
class Load:
    """What clients saw: seconds of accepted requests, and how many were refused."""

    accepted_s: list[float] = field(default_factory=list)
    overhead_ms: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    elapsed_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: int, seconds: float, body: bytes) -> None:
        with self._lock:
            if status == 201:
                self.accepted_s.append(seconds)
                timings = json.loads(body)["timings"]
                looked_ms = sum(timings[f"{stage}_ms"] for stage in ("queue", "decode", "detector"))
                self.overhead_ms.append(1000 * seconds - looked_ms)
            elif status == 429:
                self.refused += 1
            else:
                self.failed += 1

    @property
    def rate(self) -> float:
        return len(self.accepted_s) / self.elapsed_s


def photograph(width: int, height: int, *, seed: int = 0) -> bytes:
    """A JPEG with the grain of a camera."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(
        rng.integers(60, 200, (12, 16, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def send(connection: http.client.HTTPConnection, data: bytes, load: Load) -> None:
    started_s = time.perf_counter()
    connection.request("POST", "/v1/inspections", data, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    body = response.read()
    load.add(response.status, time.perf_counter() - started_s, body)


def closed_loop(address: str, data: bytes, *, clients: int, requests: int) -> Load:
    """Clients that each send their next photograph when the last one is answered."""
    load = Load()

    def client(count: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        for _ in range(count):
            send(connection, data, load)
        connection.close()

    started_s = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client, requests // clients) for _ in range(clients)]:
            future.result()
    load.elapsed_s = time.perf_counter() - started_s
    return load


def open_loop(address: str, data: bytes, *, rate: float, seconds: float) -> Load:
    """Photographs that come at a rate, whatever becomes of those before."""
    load = Load()

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        send(connection, data, load)
        connection.close()

    started_s = time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        for number in range(round(rate * seconds)):
            time.sleep(max(0.0, started_s + number / rate - time.perf_counter()))
            pool.submit(client)
    load.elapsed_s = time.perf_counter() - started_s
    return load


def bare(bundle: Path, data: bytes, folder: Path, *, runs: int) -> tuple[list[float], float]:
    """Seconds of decoding and detector without a server; and of CPU, on average."""
    path = folder / "bare.jpg"
    path.write_bytes(data)
    words = [sys.executable, "-c", BARE, str(bundle), str(path), str(runs)]
    times, cpu_s = json.loads(subprocess.run(words, capture_output=True, check=True, encoding="utf-8").stdout)
    return times, cpu_s


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share))


def start_s(words: tuple[str, ...]) -> float:
    started_s = time.perf_counter()
    with process(*words) as (_, client):
        assert client.get("/health/ready").status == 200
        return time.perf_counter() - started_s


def measure(bundle: Path, store: Path, row: Callable[..., None]) -> None:
    small, large = photograph(640, 480), photograph(4000, 3000)
    words = (str(bundle), "--store", str(store), "--threads", "1")
    row("start, s", f"{min(start_s(words) for _ in range(3)):.2f}", "3 at most")
    times, bare_cpu_s = bare(bundle, small, store, runs=REQUESTS)
    bare_rate = len(times) / sum(times)
    row(f"bare: decoding and detector, {len(small) / 1000:.0f} kB, ms, p50", f"{1000 * percentile(times, 50):.1f}", "")
    with (
        tempfile.TemporaryDirectory(dir=memory_folder()) as quick,
        process(str(bundle), "--store", quick, "--threads", "1") as (_, client),
    ):
        load = closed_loop(client.address, small, clients=1, requests=REQUESTS)
        row("overhead, one client, history in memory, ms, p50", f"{percentile(load.overhead_ms, 50):.2f}", "3 at most")
        row("overhead, one client, history in memory, ms, p95", f"{percentile(load.overhead_ms, 95):.2f}", "8 at most")
    with process(*words) as (server, client):
        memory = psutil.Process(server.pid)
        row("memory after the start, MB", f"{memory.memory_info().rss / MB:.0f}", f"{allowed_mb(bundle):.0f} at most")
        before_s = sum(memory.cpu_times()[:2])
        load = closed_loop(client.address, small, clients=1, requests=REQUESTS)
        cpu_s = (sum(memory.cpu_times()[:2]) - before_s) / REQUESTS
        row("CPU beyond decoding and detector, a photograph, ms", f"{1000 * (cpu_s - bare_cpu_s):.2f}", "")
        row("overhead, one client, history on the disk, ms, p50", f"{percentile(load.overhead_ms, 50):.2f}", "")
        row(
            "overhead, one client, history on the disk, ms, p95",
            f"{percentile(load.overhead_ms, 95):.2f}",
            "15 at most",
        )
        for clients in (1, 2, 4, 8):
            load = closed_loop(client.address, small, clients=clients, requests=REQUESTS)
            row(f"rate at {clients} clients, of the bare rate", f"{load.rate / bare_rate:.0%}",
                "90 % at least" if clients > 1 else "")  # fmt: skip
        service_s = percentile(closed_loop(client.address, small, clients=1, requests=50).accepted_s, 50)
        before_mb = memory.memory_info().rss / MB
        load = open_loop(client.address, small, rate=OVERLOAD * bare_rate, seconds=LOAD_S)
        sent = len(load.accepted_s) + load.refused + load.failed
        row(f"at {OVERLOAD} times the bare rate: accepted p95, in service times",
            f"{percentile(load.accepted_s, 95) / service_s:.1f}", f"{QUEUE + 1} at most")  # fmt: skip
        row("  refused with 429", f"{load.refused / sent:.0%}", "75 %")
        row("  neither accepted nor refused", str(load.failed), "0")
        row("  accepted, of the bare rate", f"{load.rate / bare_rate:.0%}", "")
        row("  memory grew by, MB", f"{memory.memory_info().rss / MB - before_mb:.0f}", "0")
        load = closed_loop(client.address, large, clients=1, requests=60)
        row(
            f"12 megapixels, {len(large) / MB:.1f} MB, end to end, ms, p50",
            f"{1000 * percentile(load.accepted_s, 50):.0f}",
            "",
        )
        row("  p95", f"{1000 * percentile(load.accepted_s, 95):.0f}", "200 at most")
        row("memory at the end, MB", f"{memory.memory_info().rss / MB:.0f}", "")


def memory_folder() -> str | None:
    """A folder whose files are in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def allowed_mb(bundle: Path) -> float:
    return 150 + 2.5 * (bundle / "model.onnx").stat().st_size / MB


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    print("| what | measured | asked for |\n|---|---|---|")
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        bundle = write_bundle(Path(folder, "promoted", "light"), model=MODEL, size=SIZE)
        store = Path(folder, "store")
        store.mkdir()
        measure(bundle, store, lambda *cells: print(f"| {' | '.join(cells)} |", flush=True))


if __name__ == "__main__":
    main()
