"""Rates with exact confidence intervals, and how many parts a claim about a rate needs.

A rate of very few parts has a reason instead of a value. Its interval stays: it holds for any number of parts.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vqc.config import Record

FEWEST = 10  # below this no rate is stated: the interval would cover a third of all possible values
CONFIDENCE = 0.95


class Rate(Record):
    """``count`` of ``total``, with the two-sided 95 % confidence interval."""

    count: int = Field(ge=0)
    total: int = Field(ge=0)
    value: float | None = Field(None, ge=0, le=1, description="count / total; None if total is too small")
    low: float | None = Field(None, ge=0, le=1, description="lower end of the interval; None without an interval")
    high: float | None = Field(None, ge=0, le=1, description="upper end of the interval; None without an interval")
    reason: str | None = Field(None, description="why there is no value or no interval")

    def __str__(self) -> str:
        text = f"{self.count} of {self.total}"
        if self.low is None or self.high is None:
            return text
        return f"{text}, two-sided 95 % interval {percent(self.low)} to {percent(self.high)}"

    @property
    def sentence(self) -> str | None:
        """What a count of zero shows; None for any other count and for a rate without an interval."""
        if self.count or self.high is None:
            return None
        bound = 1 - (1 - CONFIDENCE) ** (1 / self.total)
        return f"0 of {self.total}: with 95 % confidence (one-sided, exact) the true rate is at most {percent(bound)}."


def without_intervals(figure: Any, reason: str) -> Any:
    """The same counts in all rates of a record, for data that chose the threshold: no interval holds there."""
    if isinstance(figure, tuple):
        return tuple(without_intervals(one, reason) for one in figure)
    if isinstance(figure, Rate):
        return figure.model_copy(update={"low": None, "high": None, "reason": figure.reason or reason})
    if isinstance(figure, Record):
        return figure.model_copy(update={name: without_intervals(value, reason) for name, value in figure})
    return figure


def percent(share: float) -> str:
    """A share of 1 with enough digits to differ from 0 and 100: 0.004 is "0.4 %", 0.9996 is "99.96 %"."""
    digits = 1
    while digits < 4 and 0 < share < 1 and float(f"{100 * share:.{digits}f}") in (0.0, 100.0):
        digits += 1
    return f"{100 * share:.{digits}f} %"


def rate(count: int, total: int, *, of: str, effective: int | None = None) -> Rate:
    """The rate of parts such as "defective parts", with the interval of Clopper and Pearson (1934).

    Args:
        effective: how many independent parts they are worth; None: all are independent.
    """
    if total == 0:
        return Rate(count=0, total=0, reason=f"there are no {of}")
    effective = effective or total
    low, high = exact_interval(round(count / total * effective), effective)
    if total < FEWEST:
        reason = f"only {total} {of}, at least {FEWEST} are needed to state a rate"
        return Rate(count=count, total=total, low=low, high=high, reason=reason)
    return Rate(count=count, total=total, value=count / total, low=low, high=high)


def clustered_rate(counts: NDArray[np.int64], totals: NDArray[np.int64], *, of: str) -> Rate:
    """The rate of things of which one part may have several, such as defects: parts are independent, defects are not.

    The interval is the exact one for the effective sample size, total / design effect (Korn and Graubard, "Confidence
    intervals for proportions with small expected number of positive counts", Survey Methodology 24, 1998), rounded to
    whole numbers, without their correction for the degrees of freedom. If all or none count, each part counts once.

    Args:
        counts, totals: [P] per part.
    """
    count, total, parts = int(counts.sum()), int(totals.sum()), int((totals > 0).sum())
    effective = parts
    if 0 < count < total and parts > 1:
        share = count / total
        independent = share * (1 - share) / (total - 1)
        clustered = float(((counts - share * totals) ** 2).sum()) * parts / (parts - 1) / total**2
        effective = total if clustered <= independent else max(1, round(total * independent / clustered))
    return rate(count, total, of=of, effective=effective)


@lru_cache(maxsize=10_000)
def exact_interval(count: int, total: int) -> tuple[float, float]:
    """The two-sided 95 % interval of Clopper and Pearson (Biometrika 26, 1934), 0..1; ``total`` >= 1."""
    low = 1 - _upper_limit(total - count, total) if count else 0.0
    return low, _upper_limit(count, total) if count < total else 1.0


def _upper_limit(count: int, total: int) -> float:
    """The rate at which ``count`` or fewer of ``total`` are as improbable as the interval allows on one side.

    A quantile of Beta(count + 1, total - count), by bisection: scipy would be a fifth of the server's image.
    """
    counts = np.arange(count + 1)
    ways = np.cumsum(
        np.log(np.append(1.0, (total + 1 - counts[1:]) / counts[1:]))
    )  # logarithms of "total choose counts"
    low, high = count / total, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        probability = np.exp(ways + counts * math.log(middle) + (total - counts) * math.log1p(-middle)).sum()
        low, high = (middle, high) if probability > (1 - CONFIDENCE) / 2 else (low, middle)
    return (low + high) / 2


def tolerated_misses(total: int, max_rate: float, *, confidence: float | None) -> int:
    """How many of ``total`` independent parts the threshold may miss; -1: there are too few parts for any claim.

    Without a confidence: floor(a (n + 1)) - 1, so that a new part is missed with probability at most a = ``max_rate``,
    on average over samples of n parts (Angelopoulos et al., "Conformal risk control", 2022, section 2). With one: the
    largest k for which the rate of misses, a Beta(k + 1, n - k) variable, is at most a with that confidence (Wilks,
    "Determination of sample sizes for setting tolerance limits", 1941). Both arguments lie between 0 and 1.
    """
    if confidence is None:
        return math.floor(max_rate * (total + 1) + 1e-9) - 1
    from scipy.stats import beta

    misses = np.arange(total)
    return int((beta.cdf(max_rate, misses + 1, total - misses) >= confidence).sum()) - 1


def confidence_of(misses: int, total: int, max_rate: float) -> float:
    """The confidence that a threshold with so many misses among ``total`` parts has a rate of at most ``max_rate``."""
    from scipy.stats import beta

    return float(beta.cdf(max_rate, misses + 1, total - misses)) if misses < total else 0.0


def parts_needed(max_rate: float, *, confidence: float | None) -> int:
    """The smallest number of parts for which ``tolerated_misses`` is 0 or more."""
    exact = 1 / max_rate - 1 if confidence is None else math.log(1 - confidence) / math.log(1 - max_rate)
    return max(1, math.ceil(exact - 1e-9))
