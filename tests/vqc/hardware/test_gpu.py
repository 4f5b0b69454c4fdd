"""Which GPUs can be used: a fake driver, and in the process that is asked a fake torch."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from vqc.errors import ConfigError
from vqc.hardware.gpu import GB, gpu_count, read_gpu, usable_gpus

FAKE_TORCH = """
class device:
    def __init__(self, type, index):
        self.type, self.index = type, index
class cuda:
    init = device_count = get_device_properties = None
class One:
    add = lambda self, other: self
    item = lambda self: 1.0
class Properties:
    def __init__(self, uuid):
        self.uuid = uuid
cuda.init = lambda: None
cuda.device_count = lambda: 2
cuda.get_device_properties = lambda device: Properties(f"uuid-{device.index}")
ones = lambda count, device: One()
def failing(error):
    def fail(*_, **__):
        raise error
    return fail
"""


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that knows two."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)


def install(folder: Path, patch: pytest.MonkeyPatch, *changes: str) -> None:
    """Put a torch of our own before the real one, for processes that are started from here on."""
    (folder / "torch.py").write_text("\n".join([FAKE_TORCH, *changes]), encoding="utf-8")
    patch.setenv("PYTHONPATH", str(folder))


def test_torch_names_those_it_can_use(two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert usable_gpus() == ("GPU-uuid-0", "GPU-uuid-1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "cuda.init = failing(AssertionError('Torch not compiled with CUDA enabled'))",
            "Torch not compiled with CUDA enabled",
        ),
        ("cuda.init = failing(RuntimeError('The NVIDIA driver is too old'))", "The NVIDIA driver is too old"),
        ("ones = failing(RuntimeError('CUDA error: no kernel image\\nCompile with'))", "CUDA error: no kernel image"),
        ("import os; os._exit(3)", "the process that asked it ended with status 3"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_refused_with_the_command(
    two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, change)
    with pytest.raises(ConfigError, match=re.escape(f"torch cannot use the GPU ({reason}); expected")) as error:
        usable_gpus()
    assert "--torch-backend=auto" in str(error.value)


def test_a_driver_that_hangs_is_not_waited_for(two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr("vqc.hardware.gpu.ANSWER_S", 0.5)
    with pytest.raises(ConfigError, match="no answer within 0.5 s"):
        usable_gpus()


@pytest.mark.parametrize(("shown", "count"), [(None, 2), ("", 0), ("-1", 0), ("-1,0", 0), ("1", 2), ("0,1", 2)])
def test_the_user_may_hide_them(two_gpus: None, monkeypatch: pytest.MonkeyPatch, shown: str | None, count: int) -> None:
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert gpu_count() == count


def test_nobody_is_asked_where_all_are_hidden(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("vqc.hardware.gpu.subprocess.run", lambda *_, **__: pytest.fail("asked"))
    assert usable_gpus() == ()


NVML_REASONS = {  # nvml.h, nvmlClocksEventReasons
    0x1: set(),  # idle
    0x4: {"power"},
    0x20: {"heat"},
    0x40 | 0x8: {"heat"},
    0x80 | 0x8: {"power"},
    0x4 | 0x20: {"heat", "power"},
}


@pytest.mark.parametrize(("reasons", "causes"), NVML_REASONS.items())
def test_why_the_clocks_are_down(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, reasons: int, causes: set[str]
) -> None:
    """Of the GPU that is asked for by its UUID; what the driver refuses is unknown."""

    def refused(handle: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: f"the one called {handle}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(used=GB, total=6 * GB))
    for name in ("UtilizationRates", "PowerUsage"):
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", refused)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", lambda handle, sensor: 71)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda handle: reasons)
    reading = read_gpu(uuid="GPU-1")
    assert reading is not None
    assert (reading.name, reading.temperature_c, reading.power_w) == ("the one called GPU-1", 71, None)
    assert reading.slowed_by == causes
