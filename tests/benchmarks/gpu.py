"""All that only a GPU can show, in one command; leaves a report in Markdown, ``tests/benchmarks/GPU.md``.

    python tests/benchmarks/gpu.py --vram-gb 6 [--peer PATH/TO/stock_search.py] [--data DIR] [--parts memory speed ...]

Each part takes minutes on a fast card and can be run alone; what a part measured replaces its section of the report.
Every measurement is a process of its own, capped to the budget. ``--rehearse`` runs the same lines on the CPU on tiny
sizes, in seconds, so that they work when there is a card; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field

from tests.benchmarks.child import Job, Memory, Speed
from tune.history.journal import read_table
from tune.history.table import Table
from vqc.config import Record
from vqc.data.synthetic import write_sample
from vqc.models.registry import OFFERED

ROOT = Path(__file__).resolve().parent.parent.parent
REPORT = Path(__file__).with_name("GPU.md")
NO_GPU = 2
GUIDE_GB = {(512, 8): 5.5, (640, 6): 5.8, (1024, 2): 5.9}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: as asked, or a rehearsal."""

    models: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # image size in pixels, images in a batch
    speed_models: tuple[str, ...]
    search_model: str
    search_sizes: tuple[int, ...]
    search_batches: tuple[int, ...]
    trials: int
    epochs: int
    images: int
    pack_size: tuple[int, int]


FULL = Scale(
    models=OFFERED,
    sizes=tuple(GUIDE_GB),
    speed_models=OFFERED,
    search_model="fasterrcnn_mobilenet_v3_large_fpn",
    search_sizes=(320, 416, 512, 640, 768, 896, 1024),
    search_batches=(2, 4, 8, 16),
    trials=30,
    epochs=3,
    images=64,
    pack_size=(320, 4),
)
REHEARSAL = Scale(
    models=("fcos_tiny",),
    sizes=((64, 4),),
    speed_models=("fcos_tiny",),
    search_model="fcos_tiny",
    search_sizes=(64, 96),
    search_batches=(2, 4),
    trials=2,
    epochs=1,
    images=8,
    pack_size=(64, 4),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and with what a part measures."""

    scale: Scale
    vram_gb: float
    data: Path
    folder: Path
    peer: Path | None

    def job(self, model: str, size: int, batch: int, **values: Any) -> Job:
        basis = {"model": model, "image_size": size, "batch_size": batch, "num_epochs": 2, "weights": "none"}
        return Job.model_validate({"config": basis, "data": self.data, "vram_gb": self.vram_gb, **values})


def start(mode: str, job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.child", mode, job.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT)


def answer(process: subprocess.Popen[str]) -> str | None:
    """What a child printed last; None where it failed."""
    said, _ = process.communicate()
    return said.strip().splitlines()[-1] if process.returncode == 0 and said.strip() else None


def memory(bench: Bench) -> list[str]:
    """Peaks of each detector beside the guide's, and how many images of a batch fitted at once."""
    lines = [
        "| detector | size, batch | the guide's, GB | peak, GB | with the context, GB | images at once |",
        "|---|---|---|---|---|---|",
    ]
    for model in bench.scale.models:
        for size, batch in bench.scale.sizes:
            printed = answer(start("memory", bench.job(model, size, batch, images=bench.scale.images)))
            guide = GUIDE_GB.get((size, batch), "")
            if printed is None:
                lines.append(f"| {model} | {size} px, {batch} | {guide} | failed | | |")
                continue
            found = Memory.model_validate_json(printed)
            lines.append(
                f"| {model} | {size} px, {batch} | {guide} | {found.peak_gb:.2f} | {found.device_gb:.2f} | "
                f"{found.images_at_once} |"
            )
    return lines


def speed(bench: Bench) -> list[str]:
    """Images a second beside the plain torchvision loop, alternating, and how busy the GPU was."""
    lines = [
        "| detector | size, batch | plain, images/s | fit(), images/s | times | GPU busy |",
        "|---|---|---|---|---|---|",
    ]
    size, batch = bench.scale.pack_size
    for model in bench.scale.speed_models:
        printed = answer(start("speed", bench.job(model, size, batch, images=bench.scale.images)))
        if printed is None:
            lines.append(f"| {model} | {size} px, {batch} | failed | | | |")
            continue
        found = Speed.model_validate_json(printed)
        busy = "" if found.gpu_utilisation is None else f"{found.gpu_utilisation:.0%}"
        ratio = found.images_per_s / found.plain_images_per_s
        lines.append(
            f"| {model} | {size} px, {batch} | {found.plain_images_per_s:.1f} | {found.images_per_s:.1f} "
            f"| {ratio:.2f} | {busy} |"
        )
    return lines


def packing(bench: Bench) -> list[str]:
    """One run alone, and two and three at a time: images a second of them all."""
    size, batch = bench.scale.pack_size
    lines = ["| runs at a time | images/s of all | times one alone |", "|---|---|---|"]
    alone = None
    for together in (1, 2, 3):
        job = bench.job(
            bench.scale.search_model, size, batch, images=bench.scale.images, share=1 / together, plain=False
        )
        printed = [answer(process) for process in [start("speed", job) for _ in range(together)]]
        found = [Speed.model_validate_json(one) for one in printed if one is not None]
        if len(found) < together:
            lines.append(f"| {together} | failed | |")
            continue
        total = sum(one.images_per_s for one in found)
        alone = alone or total
        lines.append(f"| {together} | {total:.1f} | {total / alone:.2f} |")
    return lines


def optimisations(bench: Bench) -> list[str]:
    """The guide's choices one by one, clearing the cache after each batch among them."""
    size, batch = bench.scale.pack_size
    config = bench.folder / "guide.json"
    config.write_text(bench.job(bench.scale.search_model, size, batch).config.model_dump_json(), encoding="utf-8")
    script = Path(__file__).with_name("guide.py")
    command = [sys.executable, str(script), "--config", str(config), "--data", str(bench.data)]
    return subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True, cwd=ROOT).stdout.splitlines()


def search(bench: Bench) -> list[str]:
    """A search over sizes and batches of which many do not fit at once; the same space for the peer."""
    scale = bench.scale
    settings = {
        "train": {"model": scale.search_model, "weights": "none", "num_epochs": scale.epochs},
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "image_size": {"choices": scale.search_sizes},
            "batch_size": {"choices": scale.search_batches},
        },
        "rungs": [],  # every trial in full: it is memory that is tried here
        "confirm": 0,
        "trials": scale.trials,
    }
    path = bench.folder / "search.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    words = ["--config", str(path), "--data", str(bench.data), "--results", str(bench.folder / "results")]
    words += ["--name", "gpu", "--vram-gb", str(bench.vram_gb)]
    subprocess.run([sys.executable, str(ROOT / "tune" / "search.py"), *words], check=True, cwd=ROOT)
    table = read_table(bench.folder / "results" / "gpu" / "journal.jsonl")
    lines = ["| | trials | lost | infeasible | steps skipped |", "|---|---|---|---|---|", ours(table)]
    return lines if bench.peer is None else [*lines, peers(bench, bench.peer)]


def ours(table: Table) -> str:
    states = [trial.state for trial in table.trials.values()]
    lost = sum(state not in ("completed", "stopped", "infeasible") for state in states)
    skipped = 0
    images = table.header.data["images"]["train"]
    for trial in table.trials.values():
        expected = trial.epochs * -(-images // trial.config.batch_size)
        skipped += expected - (trial.reports[-1].step if trial.reports else 0)
    return f"| vqc-tune | {len(states)} | {lost} | {states.count('infeasible')} | {skipped} |"


def peers(bench: Bench, script: Path) -> str:
    """The peer in a process of its own, capped as ours are, by torch's own setting."""
    scale = bench.scale
    from vqc.hardware.gpu import read_gpu

    gpu = read_gpu()
    fraction = 1.0 if gpu is None else min(1.0, bench.vram_gb / gpu.total_gb)
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": f"per_process_memory_fraction:{fraction:.4f}"}
    words = ["--data", str(bench.data), "--trials", str(scale.trials), "--epochs", str(scale.epochs)]
    words += [
        "--model",
        scale.search_model,
        "--out",
        str(bench.folder / "peer"),
        "--sizes",
        *map(str, scale.search_sizes),
    ]
    words += ["--batches", *map(str, scale.search_batches)]
    done = subprocess.run(
        [sys.executable, str(script), *words], stdout=subprocess.PIPE, encoding="utf-8", check=False, env=environment
    )
    if done.returncode != 0:
        return f"| peer | {scale.trials} | it ended with status {done.returncode} | | |"
    printed = json.loads(done.stdout.strip().splitlines()[-1])
    return f"| peer | {printed['trials']} | {printed['errors']} | | |"


PARTS: Mapping[str, tuple[str, Callable[[Bench], list[str]]]] = {
    "memory": ("Memory of each detector", memory),
    "speed": ("Images a second", speed),
    "packing": ("Several runs on one GPU", packing),
    "optimisations": ("The guide's optimisations", optimisations),
    "search": ("A search within the budget", search),
}


class Report(Record):
    """The sections measured so far."""

    title: str
    sections: dict[str, str] = Field(default_factory=dict)

    def text(self) -> str:
        body = [f"## {PARTS[name][0]}\n\n{self.sections[name]}" for name in PARTS if name in self.sections]
        return "\n\n".join([f"# {self.title}", *body]) + "\n"

    @classmethod
    def read(cls, path: Path, title: str) -> Report:
        """What was measured before on the same card."""
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        head, *rest = found.split("\n\n## ")
        if head.strip() != f"# {title}":
            return cls(title=title)
        headings = {heading: name for name, (heading, _) in PARTS.items()}
        pairs = (section.split("\n\n", 1) for section in rest)
        return cls(title=title, sections={headings[heading]: body.rstrip() for heading, body in pairs})


def measure(bench: Bench, parts: Sequence[str], path: Path, title: str) -> None:
    """Run the parts and write the report after each."""
    report = Report.read(path, title)
    for name in parts:
        heading, part = PARTS[name]
        print(f"{heading} ...", flush=True)
        section = "\n".join([*part(bench), "", f"Measured on {date.today()}."])
        report = report.model_copy(update={"sections": {**report.sections, name: section}})
        path.write_text(report.text(), encoding="utf-8")
        print(section, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vram-gb", type=float, default=6.0, help="budget; a bigger card is capped to it (6)")
    parser.add_argument("--peer", type=Path, help="another search, to be given the same space")
    parser.add_argument("--data", type=Path, help="folder with train/ and val/ (the generated sample)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=REPORT, help="the report (tests/benchmarks/GPU.md)")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU; the figures mean nothing")
    args = parser.parse_args()
    from vqc.hardware.gpu import read_gpu

    gpu = read_gpu()
    if gpu is None and not args.rehearse:
        sys.stderr.write(
            "This benchmark measures a GPU and found none; --rehearse runs it on the CPU without meaning.\n"
        )
        return NO_GPU
    card = "a rehearsal on the CPU" if args.rehearse or gpu is None else gpu.name
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scale = REHEARSAL if args.rehearse else FULL
        images = {"train": scale.images, "val": max(4, scale.images // 4), "test": 4}
        data = args.data or write_sample(Path(folder) / "data", images=images)
        bench = Bench(scale=scale, vram_gb=args.vram_gb, data=data.resolve(), folder=Path(folder), peer=args.peer)
        measure(bench, args.parts, args.out, f"Within {args.vram_gb:g} GB of {card}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
