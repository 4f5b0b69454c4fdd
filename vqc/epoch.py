"""The figures of one epoch: the record that training yields and everything else reads."""

from __future__ import annotations

from pydantic import Field

from vqc.config import Record


class MachineUse(Record):
    """What the machine did during an epoch, other programs included; ``None`` where it cannot be measured."""

    gpu_utilisation: float | None = Field(None, description="mean share of the time with a kernel running, 0..1")
    gpu_memory_gb: float | None = Field(None, description="highest memory in use on the GPU")
    gpu_temperature_c: float | None = Field(None, description="highest")
    gpu_power_w: float | None = Field(None, description="mean")
    gpu_slowed_by_heat: float | None = Field(None, description="share of the readings with clocks kept down so, 0..1")
    gpu_slowed_by_power: float | None = Field(None, description="the same by a limit of power")
    cpu_utilisation: float | None = Field(None, description="mean share of all cores that was busy, 0..1")
    ram_used_gb: float | None = Field(None, description="highest memory in use on the machine")


class Scores(Record):
    """COCO box scores in 0..1; ``None`` where there is nothing to score (no ground truth)."""

    ap: float | None = Field(description="mean over IoU 0.50:0.05:0.95, all areas, 100 detections per image")
    ap50: float | None = Field(description="at IoU 0.50")
    ap75: float | None = Field(description="at IoU 0.75")
    ar: float | None = Field(description="average recall over IoU 0.50:0.05:0.95 at 100 detections per image")
    class_ap: dict[str, float | None] = Field(description="category name -> AP over IoU 0.50:0.05:0.95")

    def value(self, metric: str) -> float:
        """The score of that name, such as ``ap50``; 0 where there is nothing to score, so that scores compare."""
        score: float | None = getattr(self, metric)
        return 0.0 if score is None else score


class EpochReport(Record):
    """Figures of one epoch; the scores are those of the val split after it."""

    epoch: int = Field(ge=1, description="finished epochs, this one included")
    step: int = Field(ge=0, description="optimiser steps since the start of the run")
    learning_rate: float = Field(description="of the epoch's last step")
    losses: dict[str, float] = Field(description="mean of each loss term over the epoch's images, and 'total'")
    grad_norm: float | None = Field(
        description="mean over the steps not skipped of the gradient's 2-norm before clipping; None: all skipped"
    )
    skipped_steps: int = Field(0, ge=0, description="steps of the epoch without effect: a float16 gradient overflowed")
    scores: Scores
    data_s: float = Field(ge=0, description="waiting for batches")
    train_s: float = Field(ge=0, description="the epoch's steps, waiting for batches included")
    eval_s: float = Field(ge=0, description="detections on val and their scoring")
    cooling_s: float = Field(0.0, ge=0, description="waiting before the epoch until the GPU was cooler")
    images_per_s: float = Field(ge=0, description="training images per second of train_s")
    peak_vram_gb: float | None = Field(
        None, description="peak of the GPU's allocator since the epoch began; None without a GPU"
    )
    peak_ram_gb: float = Field(ge=0, description="peak resident memory of the process since its start")
    micro_batch: int | None = Field(
        None, description="fewest images computed at once, below the batch size where memory ran out; None: unknown"
    )
    allocator: str | None = Field(
        None, description="settings of torch's CUDA allocator, read back from it; None without a GPU"
    )
    machine: MachineUse | None = Field(None, description="training and evaluation; None: unknown")
    measured_ms: int | None = Field(None, description="Unix time of the epoch's end in milliseconds; None: unknown")

    @property
    def epoch_s(self) -> float:
        """Seconds of the whole epoch: training and evaluation."""
        return self.train_s + self.eval_s
