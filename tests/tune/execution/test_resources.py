"""What one trial gets of a machine or a cluster."""

from __future__ import annotations

import pytest

from tests.tables import search_settings
from tune.execution.resources import Machines, Resources, resources_of, this_machine

GPU_MACHINE = Machines(count=1, cpus=8, gpus=True)


@pytest.mark.parametrize(
    ("changes", "machines", "expected"),
    [
        ({}, GPU_MACHINE, Resources(cpus=8, gpus=1.0, threads=7)),
        ({}, Machines(count=1, cpus=1, gpus=False), Resources(cpus=1, gpus=0.0, threads=1)),
        ({"concurrent": 2}, Machines(count=1, cpus=1, gpus=False), Resources(cpus=0.5, gpus=0.0, threads=1)),
        ({"gpus_per_trial": 0.5, "concurrent": 2}, GPU_MACHINE, Resources(cpus=4, gpus=0.5, threads=3)),
        ({"gpus_per_trial": "auto", "concurrent": 3}, GPU_MACHINE, Resources(cpus=2, gpus=1.0, threads=2)),
        ({"concurrent": 3}, Machines(count=3, cpus=4, gpus=False), Resources(cpus=4, gpus=0.0, threads=3)),
        ({"concurrent": 4}, Machines(count=3, cpus=4, gpus=False), Resources(cpus=2, gpus=0.0, threads=1)),
        ({"threads_per_trial": 6, "vram_gb": 6.0}, GPU_MACHINE, Resources(cpus=8, gpus=1.0, threads=6, vram_gb=6.0)),
    ],
    ids=str,
)
def test_trials_at_a_time_share_cores_and_gpus(
    changes: dict[str, object], machines: Machines, expected: Resources
) -> None:
    assert resources_of(search_settings(**changes), machines) == expected


def test_this_machine_is_one_with_at_least_a_core() -> None:
    machine = this_machine()
    assert machine.count == 1
    assert machine.cpus >= 1
