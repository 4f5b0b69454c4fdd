"""How large defects are, in the photographs and at a detector's input, and what to do where they are too small.

Pure functions of sizes. Of fewer than ``LEAST_SIDE_PX`` pixels even people make nothing; and a defect that is narrower
than two cells of the finest feature map fills none of them for certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import LARGEST_SIZE_PX, SIZE_STEP_PX, SMALLEST_TILE_PX, Record
from vqc.data.findings import Report

QUANTILES = (0.1, 0.5, 0.9)
LEAST_SIDE_PX = 8.0  # of a defect at the detector's input; a tenth may be smaller
LEAST_CELLS = 2.0  # of the finest feature map, along the shorter side of half of the defects
FINEST_STRIDE_PX = 4  # of any detector here


@dataclass(frozen=True, kw_only=True, eq=False)
class Defects:
    """``sides_px``: width and height [n, 2] of each defect; ``photographs_px``: those of its photograph [n, 2]."""

    sides_px: NDArray[np.float32]
    photographs_px: NDArray[np.float32]


class DetectorInput(Record):
    """What a detector sees of a photograph."""

    size: tuple[int, int] = Field(description="height and width in pixels")
    tile_px: int = Field(0, description="side of a tile in pixels of the photograph; 0: the whole photograph")
    stride_px: int = Field(description="of the detector's finest feature map, in pixels of its input")

    def __str__(self) -> str:
        height, width = self.size
        return f"{height} x {width} px" + (f", tiles of {self.tile_px} px" if self.tile_px else "")


class DefectSizes(Record):
    """Shorter sides of the defects in pixels."""

    where: DetectorInput | None = Field(description="at which input; null: in the photographs themselves")
    count: int = Field(description="defects")
    sides_px: tuple[float, float, float] = Field(description="the 10 %, 50 % and 90 % quantiles")

    @property
    def place(self) -> str:
        return "in the photographs" if self.where is None else f"at {self.where}"

    @property
    def enlargement(self) -> float:
        """How many times as large as they are at this input the defects should be; at most 1: they are large enough."""
        if self.where is None or not self.count:
            return 0.0
        small_px, middle_px, _ = self.sides_px
        return max(LEAST_SIDE_PX / small_px, LEAST_CELLS * self.where.stride_px / middle_px)


def size_table(defects: Defects, inputs: Sequence[DetectorInput]) -> list[DefectSizes]:
    """The sizes in the photographs, then at each of the inputs."""
    return [sizes_at(defects, where) for where in (None, *inputs)]


def sizes_at(defects: Defects, where: DetectorInput | None) -> DefectSizes:
    """The sizes at an input; None: in the photographs."""
    shorter_px = defects.sides_px.min(axis=1, initial=np.inf)
    if where is not None and where.tile_px:
        shorter_px = shorter_px * (min(where.size) / where.tile_px)
    elif where is not None:
        shorter_px = shorter_px * (where.size[::-1] / defects.photographs_px).min(axis=1, initial=np.inf)
    quantiles = np.quantile(shorter_px, QUANTILES) if len(shorter_px) else np.zeros(len(QUANTILES))
    low, middle, high = (float(f"{value:.4g}") for value in quantiles)
    return DefectSizes(where=where, count=len(shorter_px), sides_px=(low, middle, high))


def check_defect_size(defects: Defects, where: DetectorInput, report: Report) -> None:
    """Warn where defects become so small at an input that detectors miss them, with what to do."""
    sizes = sizes_at(defects, where)
    if sizes.enlargement <= 1:
        return
    small_px, middle_px, _ = sizes.sides_px
    problems, least_px = [], LEAST_CELLS * where.stride_px
    if small_px < LEAST_SIDE_PX:
        problems.append(
            f"{QUANTILES[0]:.0%} of {sizes.count:,} defects have a shorter side of at most {small_px:.1f} px, "
            f"expected at least {LEAST_SIDE_PX:g}"
        )
    if middle_px < least_px:
        problems.append(
            f"half of {sizes.count:,} defects have a shorter side of at most {middle_px:.1f} px, expected at least "
            f"{least_px:g}, two cells of the detector's finest feature map"
        )
    message = f"at an input of {where}, {' and '.join(problems)}: detectors miss such defects; "
    report.warning("small defects", "all splits", message + " or ".join(_remedies(defects, sizes, where)))


def _remedies(defects: Defects, sizes: DefectSizes, where: DetectorInput) -> list[str]:
    """What would make the defects large enough, the best first."""
    found = []
    native = sizes_at(defects, where.model_copy(update={"tile_px": min(where.size)}))  # a tile at its own scale
    tile_px = _down(min(where.size) / native.enlargement)
    shrunk = native.sides_px[1] > sizes.sides_px[1]
    if tile_px >= SMALLEST_TILE_PX and (where.tile_px or shrunk):
        found.append(f'tiles of {tile_px} px of the photograph ("tile_px": {tile_px})')
    height, width = (_up(side * sizes.enlargement) for side in where.size)
    if max(height, width) <= LARGEST_SIZE_PX:
        found.append(f"an image size of {height} x {width} px")
    if where.stride_px > FINEST_STRIDE_PX and sizes.sides_px[0] >= LEAST_SIDE_PX:
        found.append("a detector with finer feature maps (vqc models)")
    if not found:
        return ["photographs taken from nearer are needed"]
    return [*found[:-1], f"{found[-1]} would be enough"]


def _up(side_px: float) -> int:
    return math.ceil(side_px / SIZE_STEP_PX) * SIZE_STEP_PX


def _down(side_px: float) -> int:
    return math.floor(side_px / SIZE_STEP_PX) * SIZE_STEP_PX
