"""All that only a GPU can show, on a bare machine with one for half an hour. Four calls of at most nine minutes:

    python -m tests.benchmarks.gpu --call A --out DIR     correctness; then B memory, C speed, D a search (needs Ray)
    python -m tests.benchmarks.gpu --rehearse --out DIR   all of it on the CPU, tiny; the figures mean nothing

Every case is a process of its own, and every row is on the disk, in ``DIR/rows.jsonl``, before the next is measured.
After the deadline, or a kill, the same command goes on with the cases that are left. The tables are in ``GPU.md``.

The machine has Linux on x86-64, Python 3.12, torch 2.11.0+cu130 and torchvision 0.26.0, and no network. What else calls
A to C need is carried there in one file of less than 64 MiB, unpacked, and put on ``PYTHONPATH``:

    sh tests/benchmarks/gpu_carried.sh carried.tar.xz
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch

from tests.benchmarks import gpu_correctness, gpu_memory, gpu_search, gpu_speed
from tests.benchmarks.gpu_bench import FULL, REHEARSAL, Bench, Case, Row, Scale
from tests.benchmarks.gpu_report import report
from vqc.files import LineFile, whole_lines, write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
CALLS: dict[str, Callable[[Scale], dict[str, Case]]] = {
    "A": gpu_correctness.cases,
    "B": gpu_memory.cases,
    "C": gpu_speed.cases,
    "D": gpu_search.cases,
}
DEADLINE_S = 540.0
CASE_S = 240.0
NO_GPU = 2
ROWS = "rows.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", nargs="+", choices=list(CALLS), default=list(CALLS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for rows, the sample and caches")
    parser.add_argument("--report", type=Path, metavar="FILE", help="(GPU.md in DIR)")
    parser.add_argument("--commit", default=None, help="where there is no git to ask")
    parser.add_argument("--deadline-s", type=float, default=DEADLINE_S)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        sys.stderr.write(
            "This benchmark measures a GPU and found none; --rehearse runs it on the CPU without meaning.\n"
        )
        return NO_GPU
    out = args.out.resolve()
    bench = Bench(scale=REHEARSAL if args.rehearse else FULL, folder=out, rehearsal=args.rehearse)
    out.mkdir(parents=True, exist_ok=True)
    where = {
        "card": "a CPU, in a rehearsal" if args.rehearse else torch.cuda.get_device_name(),
        "date": f"{date.today()}",
    }
    where |= {"commit": args.commit or commit(), "torch": torch.__version__}
    until_s = time.monotonic() + args.deadline_s
    for call in args.call:
        for name in left(bench, call):
            run(bench, call, name, seconds=min(CASE_S, until_s - time.monotonic()))
            write_atomically(args.report or out / "GPU.md", report(rows(out), where).encode())
    return 1 if any(left(bench, call) for call in args.call) else 0


def left(bench: Bench, call: str) -> list[str]:
    """Cases of a call that were not measured to their end, in their order."""
    done = {(row["call"], row["case"]) for row in rows(bench.folder) if row["table"] == "done"}
    return [name for name in CALLS[call](bench.scale) if (call, name) not in done]


def rows(folder: Path) -> list[Row]:
    return [json.loads(line) for line in whole_lines(folder / ROWS)]


def run(bench: Bench, call: str, name: str, *, seconds: float) -> None:
    """Measure a case in a process of its own, which ends with all that it started when its seconds are over."""
    if seconds <= 0:
        return
    context = multiprocessing.get_context("forkserver")  # which has imported all, and has not started CUDA
    context.set_forkserver_preload([cases.__module__ for cases in CALLS.values()])
    process = context.Process(target=measure, args=(bench, call, name))
    began_s = time.monotonic()
    process.start()
    process.join(seconds)
    why = f"stopped after {seconds:.0f} s" if process.exitcode is None else f"exit status {process.exitcode}"
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):  # it has not made its group yet
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
    ended, took_s = "failed" if process.exitcode else "done", round(time.monotonic() - began_s, 1)
    with LineFile(bench.folder / ROWS) as lines:
        lines.append(json.dumps({"table": ended, "call": call, "case": name, "seconds": took_s, "why": why}))
    print(f"{call} {name}: {ended}, {took_s} s", flush=True)


def measure(bench: Bench, call: str, name: str) -> None:
    """Measure a case in this process; each row is on the disk before the next one is measured."""
    os.setsid()  # a group of processes, which can be killed
    torch.set_num_threads(1 if bench.rehearsal else os.cpu_count() or 1)
    bench.prepare()
    measured: Iterator[Row] = CALLS[call](bench.scale)[name](bench)
    with LineFile(bench.folder / ROWS) as lines:
        for row in measured:
            lines.append(json.dumps({"call": call, "case": name, **row}))


def commit() -> str:
    try:
        return subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
