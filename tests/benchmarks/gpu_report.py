"""``GPU.md`` from the rows of ``gpu.py``; without rows, the headings and the commands that fill them.

python -m tests.benchmarks.gpu_report > tests/benchmarks/GPU.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TABLES = {  # table -> the call that fills it, its heading
    "formats": ("A", "Each number format against float32 on the CPU (tolerances: gpu_correctness.py)"),
    "out_of_memory": ("A", "A step and an evaluation that run out of memory, against one that does not"),
    "resume": ("A", "A resumed and a repeated run against one that never stopped"),
    "allocator": ("A", "The allocator's settings, read back"),
    "worker": ("A", "One worker over four trials"),
    "saved": ("B", "What the forward pass keeps for the backward pass (asked: mixed at most 0.6 of float32)"),
    "memory": ("B", "The guide's sizes within 6, 4 and 3 GB (the guide says 5.5, 5.8 and 5.9 GB)"),
    "speed": ("C", "Images a second beside the plain torchvision loop (asked: 1.5 times)"),
    "kernels": ("C", "The time of an epoch's kernels by kind"),
    "switches": ("C", "Each choice the other way round"),
    "packing": ("C", "Several runs on one GPU"),
    "search": ("D", "A search that is killed once, in a space of which a part does not fit"),
    "failed": ("", "Cases without a result"),
}


def report(rows: Sequence[Mapping[str, Any]], where: Mapping[str, str] | None = None) -> str:
    """The tables in Markdown. ``where``: card, date, commit and versions; None where nothing was measured."""
    told = ", ".join(f"{key} {text}" for key, text in (where or {}).items())
    head = f"Measured: {told}." if told else "Nothing was measured yet."
    done = {(row["call"], row["case"]) for row in rows if row["table"] == "done"}
    parts = ["# On a GPU", head]
    for name, (call, heading) in TABLES.items():
        some = [row for row in rows if row["table"] == name]
        if name == "failed":
            some = [row for row in some if (row["call"], row["case"]) not in done]
        elif not some:
            parts += [f"## {heading}", f"Empty; `python -m tests.benchmarks.gpu --call {call} --out DIR` fills it."]
        if some:
            parts += [f"## {heading}", _table([_cells(row, name) for row in some])]
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    hidden = {"table"} if name == "failed" else {"table", "call", "case"}
    return {key: value for key, value in row.items() if key not in hidden}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_text(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(report([]), end="")
