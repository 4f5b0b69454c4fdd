"""The alarm that the photographs of the line no longer look like val's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ks_2samp

from vqc.inference.bundle import ReferenceStats, distribution
from vqc.serving.drift import APPEARANCE, LOOKS, STATISTICS, DriftMonitor, Part, same_distribution_p

USUAL = Part(brightness=120, contrast=30, sharpness=200, width_px=640, height_px=480, score=0.1)


def reference(rng: np.random.Generator, *, images: int = 150) -> ReferenceStats:
    """Of photographs that differ a little, all of one size."""
    rows = [some_part(rng) for _ in range(images)]
    figures = {name: distribution(np.array([getattr(row, name) for row in rows], float)) for name in STATISTICS}
    return ReferenceStats(images=images, **figures)


def some_part(rng: np.random.Generator, *, light: float = 1.0) -> Part:
    return replace(
        USUAL,
        brightness=light * rng.normal(120, 6),
        contrast=light * rng.normal(30, 3),
        sharpness=light**2 * rng.lognormal(5, 0.3),
        score=rng.uniform(),
    )


def alarms(monitor: DriftMonitor, rng: np.random.Generator, parts: int, *, light: float = 1.0) -> list[int]:
    """After which of the parts an alarm was raised, counted from 1."""
    return [number for number in range(1, parts + 1) if monitor.add(some_part(rng, light=light))]


def test_as_many_blocks_raise_a_false_alarm_as_are_allowed() -> None:
    """At a rate of 40 %, to see some of them: the level of the tests is the rate divided, whatever it is."""
    rng = np.random.default_rng(0)
    raised = [bool(alarms(DriftMonitor(reference(rng), false_alarm_rate=0.4), rng, LOOKS[-1])) for _ in range(100)]
    assert 1 <= sum(raised) <= 40  # Bonferroni's bound is cautious


def test_a_darker_lamp_raises_the_alarm_at_a_look_and_once() -> None:
    rng = np.random.default_rng(1)
    monitor = DriftMonitor(reference(rng))
    assert alarms(monitor, rng, LOOKS[-1]) == []
    found = alarms(monitor, rng, 2 * LOOKS[-1], light=0.9)
    assert len(found) == 1
    assert found[0] in LOOKS
    report = monitor.report()
    assert report.alarm
    assert "brightness" in [one.name for one in report.statistics if one.drifted]


def test_the_alarm_ends_after_a_whole_block_without_one() -> None:
    rng = np.random.default_rng(2)
    monitor = DriftMonitor(reference(rng))
    alarms(monitor, rng, LOOKS[-1], light=0.8)
    alarms(monitor, rng, LOOKS[-1] - 1)
    assert monitor.report().alarm
    alarms(monitor, rng, 1)
    assert not monitor.report().alarm


def test_another_camera_is_noticed_although_all_of_vals_sizes_are_equal() -> None:
    monitor = DriftMonitor(reference(np.random.default_rng(3)))
    rng = np.random.default_rng(4)
    found = [monitor.add(replace(some_part(rng), width_px=800)) for _ in range(LOOKS[0])]
    assert found == [False] * (LOOKS[0] - 1) + [True]
    assert [one.name for one in monitor.report().statistics if one.drifted] == ["width_px"]


def test_the_score_is_shown_and_raises_no_alarm() -> None:
    """It depends on the share of defective parts, which on the line is not val's."""
    rng = np.random.default_rng(5)
    monitor = DriftMonitor(reference(rng))
    assert not any(monitor.add(replace(some_part(rng), score=0.0)) for _ in range(LOOKS[-1]))
    score = next(one for one in monitor.report().statistics if one.name == "score")
    assert score.recent_mean == 0
    assert score.p_value is not None
    assert score.p_value < 1e-6
    assert not score.drifted


def test_before_the_first_part_nothing_is_known() -> None:
    report = DriftMonitor(reference(np.random.default_rng(6))).report()
    assert (report.alarm, report.parts) == (False, 0)
    assert [one.name for one in report.statistics] == list(STATISTICS)
    assert {(one.recent_mean, one.p_value) for one in report.statistics} == {(None, None)}


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, 1.0])
def test_the_p_value_is_scipys_or_more(shift: float) -> None:
    """More, as the reference is known by 21 quantiles, and by no more than what these hide."""
    rng = np.random.default_rng(7)
    old, new = rng.normal(size=2000), rng.normal(shift, size=200)
    ours, exact = same_distribution_p(distribution(old), len(old), new), ks_2samp(old, new, method="asymp").pvalue
    assert exact * 0.8 <= ours <= max(exact**0.5, 1e-12) * 1.5


def test_the_levels_of_a_block_add_up_to_the_rate() -> None:
    rng = np.random.default_rng(8)
    monitor = DriftMonitor(reference(rng), false_alarm_rate=0.2)
    assert monitor.report().false_alarm_rate == pytest.approx(monitor._level * len(APPEARANCE) * len(LOOKS))
