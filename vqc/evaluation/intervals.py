"""A share of counted parts with its exact interval: what may be said of a rate after so many parts.

Called by ``vqc.evaluation.image_metrics`` and everything that counts parts. A rate of too few parts has no value but a
reason; its interval stays, because it is true of any number of parts.
"""

from __future__ import annotations

import math

from pydantic import Field

from vqc.config import Record

__all__ = ["FEWEST", "Rate", "clopper_pearson", "parts_needed", "rate"]

FEWEST = 10  # of fewer parts no rate is stated: the interval would cover a third of all that is possible
RULE_OF_THREE_FROM = 30  # the rule's error is below 5 % of its value from here
CONFIDENCE = 0.95


class Rate(Record):
    """``count`` of ``total``, with the 95 % interval of Clopper and Pearson (1934)."""

    count: int = Field(ge=0)
    total: int = Field(ge=0)
    value: float | None = Field(None, ge=0, le=1, description="count / total; None where too few were counted")
    low: float | None = Field(None, ge=0, le=1, description="lower end of the interval; None of nothing")
    high: float | None = Field(None, ge=0, le=1, description="upper end of the interval; None of nothing")
    reason: str | None = Field(None, description="why there is no value")

    @property
    def sentence(self) -> str | None:
        """What a count of zero proves, in words; None where the count is not zero or nothing was counted."""
        if self.count or not self.total:
            return None
        bound = 1 - (1 - CONFIDENCE) ** (1 / self.total)
        rule = f" (rule of three: 3/{self.total})" if self.total >= RULE_OF_THREE_FROM else ""
        return f"None of {self.total} only shows, with 95 % confidence, a true rate below {100 * bound:.2g} %{rule}."


def rate(count: int, total: int, *, of: str) -> Rate:
    """``count`` of ``total`` parts as a rate.

    Args:
        of: what was counted, in the plural, such as "defective images"; for the reason.
    """
    if total == 0:
        return Rate(count=0, total=0, reason=f"there are no {of}")
    low, high = clopper_pearson(count, total)
    if total < FEWEST:
        reason = f"only {total} {of}, at least {FEWEST} are needed to state a rate"
        return Rate(count=count, total=total, low=low, high=high, reason=reason)
    return Rate(count=count, total=total, value=count / total, low=low, high=high)


def clopper_pearson(count: int, total: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact two-sided interval of a rate, 0..1 (Clopper and Pearson, Biometrika 26, 1934); ``total`` >= 1."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def parts_needed(highest: float, *, confidence: float = CONFIDENCE) -> int:
    """Parts of which not one may fail, to show a rate of at most ``highest`` (0 < highest < 1) with the confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - highest))
