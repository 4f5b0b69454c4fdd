"""Whether what is signed holds, by simulation: ``uv run python -m tests.benchmarks.signing``.

Thresholds: val sets of n defective and n good parts are drawn, a threshold is chosen on each as the promotion does, and
its true escape rate is computed from the distribution of the scores. Gate: two detectors make their mistakes on the
<<<<<<< HEAD
same parts, what is hard for one being hard for the other; a draw counts when the new one replaces the old one.
=======
same parts, what is difficult for one being difficult for the other; draws that replace the old one count.
>>>>>>> 5c16067 (Line lengths)
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import beta

from tests.vqc.evaluation.test_comparison import mistakes
from vqc.evaluation.comparison import Comparison, paired_rate
from vqc.evaluation.intervals import parts_needed
from vqc.evaluation.operating_point import Goal, choose_thresholds

DEFECTIVE, GOOD = beta(3, 1.5), beta(1, 6)  # of the highest score of a part


def escapes(rng: np.random.Generator, parts: int, goal: Goal) -> float:
    """The true escape rate of a threshold that was chosen on so many parts of each kind."""
    scores = np.concatenate([DEFECTIVE.rvs(parts, random_state=rng), GOOD.rvs(parts, random_state=rng)])[:, None]
    defective = np.arange(2 * parts) < parts
    thresholds, _ = choose_thresholds(scores, defective=defective, good=~defective, goal=goal)
    return float(DEFECTIVE.cdf(thresholds[0]))


def exchanged(
    rng: np.random.Generator, *, ours: float, theirs: float, alike: float, good: int, defective: int
) -> tuple[bool, bool]:
    """Whether the new detector replaces the old one, and whether it is refused for its escapes (2 % for both)."""
    both = paired_rate(*mistakes(rng, good, ours, theirs, alike), np.ones(good, bool))
    escape = paired_rate(*mistakes(rng, defective, 0.02, 0.02, alike), np.ones(defective, bool))
    found = Comparison(split="test", escape=escape, overkill=both, ap=None)
    return found.better, found.escape_worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="default: 1000")
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    print("| parts | at most | confidence | mean escape | held in |\n|---|---|---|---|---|")
    for parts in (50, 200, 1000):
        for rate in (0.01, 0.05):
            for confidence in (None, 0.95):
                if parts < (needed := parts_needed(rate, confidence=confidence)):
                    print(f"| {parts} | {rate:.0%} | {confidence or 'on average'} | refused: needs {needed} | - |")
                    continue
                true = [escapes(rng, parts, Goal(max_escape=rate, confidence=confidence)) for _ in range(draws)]
                held = float(np.mean(np.array(true) <= rate))
                print(f"| {parts} | {rate:.0%} | {confidence or 'on average'} | {np.mean(true):.2%} | {held:.1%} |")
    print("\n| alike | overkill, new | old | good | defective | replaced | refused for escapes |")
    print("|---|---|---|---|---|---|---|")
    for alike in (0.0, 0.5, 0.8):
        for ours, theirs in ((0.05, 0.05), (0.02, 0.05), (0.01, 0.04), (0.05, 0.08)):
            sizes = {"good": 500, "defective": 100}
            rows = [exchanged(rng, ours=ours, theirs=theirs, alike=alike, **sizes) for _ in range(draws)]
            better, worse = np.mean(rows, axis=0)
            print(f"| {alike} | {ours:.0%} | {theirs:.0%} | 500 | 100 | {better:.1%} | {worse:.1%} |")


if __name__ == "__main__":
    main()
