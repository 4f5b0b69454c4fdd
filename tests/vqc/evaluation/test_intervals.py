"""Rates: exact intervals, bounds that say which kind they are, and how many parts a claim needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from vqc.evaluation.intervals import (
    FEWEST,
    clustered_rate,
    confidence_of,
    exact_interval,
    parts_needed,
    percent,
    rate,
    tolerated_misses,
    without_intervals,
)


@pytest.mark.parametrize("total", [0, 1, FEWEST - 1])
def test_of_too_few_parts_there_is_a_reason_and_no_rate(total: int) -> None:
    found = rate(0, total, of="good parts")
    assert found.value is None
    assert "good parts" in (found.reason or "")
    assert (found.low is None) == (total == 0)


def test_intervals_are_clopper_and_pearsons() -> None:
    assert exact_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert exact_interval(10, 10) == pytest.approx((0.025**0.1, 1))
    assert exact_interval(3, 20) == pytest.approx((0.0320709, 0.3789268), abs=1e-6)  # R: binom.test(3, 20)


@given(total=st.integers(1, 300), share=st.floats(0, 1))
def test_an_interval_holds_its_rate(total: int, share: float) -> None:
    count = round(share * total)
    low, high = exact_interval(count, total)
    assert 0 <= low <= count / total <= high <= 1


@pytest.mark.parametrize(("total", "bound"), [(43, "6.7 %"), (299, "1.0 %"), (11, "23.8 %")])
def test_none_of_n_is_bounded_by_the_exact_one_sided_limit(total: int, bound: str) -> None:
    sentence = rate(0, total, of="defective parts").sentence or ""
    assert f"0 of {total}: with 95 % confidence (one-sided, exact)" in sentence
    assert sentence.endswith(f"at most {bound}.")
    assert "rule of three" not in sentence


@pytest.mark.parametrize("count", [1, 50])
def test_only_a_count_of_zero_has_a_sentence(count: int) -> None:
    assert rate(count, 50, of="defective parts").sentence is None


def test_without_an_interval_nothing_is_claimed() -> None:
    bare = without_intervals(rate(0, 50, of="defective parts"), "these parts chose the threshold")
    assert (bare.value, bare.low, bare.high, bare.sentence) == (0, None, None, None)
    assert bare.reason == "these parts chose the threshold"


@given(total=st.integers(1, 60), share=st.floats(0, 1))
def test_parts_with_one_defect_each_are_independent(total: int, share: float) -> None:
    found = np.arange(total) < share * total
    clustered = clustered_rate(found.astype(np.int64), np.ones(total, np.int64), of="defects")
    plain = rate(int(found.sum()), total, of="defects")
    assert (clustered.count, clustered.total) == (plain.count, plain.total)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=0.03)


@pytest.mark.parametrize("shares", [(0, 0, 1, 1, 1, 1, 1, 1), (0,) * 8, (1,) * 8])
def test_defects_that_are_found_together_count_as_one(shares: tuple[int, ...]) -> None:
    counts = np.array(shares)
    many = clustered_rate(counts * 10, np.full(8, 10), of="defects")
    one = rate(int(counts.sum()), 8, of="defects")
    assert many.value == counts.mean()
    assert many.low is not None
    assert many.high is not None
    assert (many.low, many.high) == pytest.approx((one.low, one.high), abs=0.06)


def test_intervals_of_clustered_defects_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        chance = rng.beta(2, 1, 40)  # 2/3 on average, and alike for the five defects of a part
        found = clustered_rate(rng.binomial(5, chance), np.full(40, 5), of="defects")
        held += (found.low or 0) <= 2 / 3 <= (found.high or 1)
    assert held / 200 >= 0.90  # 95 % less three standard deviations of 200 draws


MAX_RATES = pytest.mark.parametrize("max_rate", [0.2, 0.05, 0.01, 0.001])
CONFIDENCES = pytest.mark.parametrize("confidence", [None, 0.9, 0.95])


@MAX_RATES
@CONFIDENCES
def test_parts_needed_are_the_fewest_that_tolerate_no_miss(max_rate: float, confidence: float | None) -> None:
    needed = parts_needed(max_rate, confidence=confidence)
    assert tolerated_misses(needed, max_rate, confidence=confidence) == 0
    assert tolerated_misses(needed - 1, max_rate, confidence=confidence) == -1


@pytest.mark.parametrize(
    ("total", "max_rate", "misses"), [(50, 0.01, -1), (99, 0.01, 0), (198, 0.01, 0), (199, 0.01, 1), (9, 0.1, 0)]
)
def test_the_conformal_rule_tolerates_this_many(total: int, max_rate: float, misses: int) -> None:
    assert tolerated_misses(total, max_rate, confidence=None) == misses


@given(total=st.integers(1, 400), max_rate=st.floats(0.001, 0.9))
def test_the_expected_rate_of_the_conformal_rule_is_at_most_what_was_asked(total: int, max_rate: float) -> None:
    misses = tolerated_misses(total, max_rate, confidence=None)
    if misses >= 0:
        assert beta.mean(misses + 1, total - misses) <= max_rate + 1e-9
    assert beta.mean(misses + 2, total - misses - 1) > max_rate - 1e-9 if misses < total - 1 else True


@given(total=st.integers(1, 400), max_rate=st.floats(0.001, 0.9), confidence=st.floats(0.5, 0.99))
def test_the_tolerance_limit_has_the_confidence_and_one_miss_more_has_not(
    total: int, max_rate: float, confidence: float
) -> None:
    misses = tolerated_misses(total, max_rate, confidence=confidence)
    if misses >= 0:
        assert confidence_of(misses, total, max_rate) >= confidence
    assert confidence_of(misses + 1, total, max_rate) < confidence


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (1, "100.0 %"), (0.5, "50.0 %"), (0.0004, "0.04 %"), (0.9996, "99.96 %"), (0.047, "4.7 %")],
)
def test_percent_keeps_what_is_not_zero_and_not_all(share: float, text: str) -> None:
    assert percent(share) == text


@given(share=st.floats(1e-5, 1 - 1e-5))
def test_percent_of_some_is_never_none_or_all(share: float) -> None:
    assert float(percent(share).removesuffix(" %")) not in (0.0, 100.0)
