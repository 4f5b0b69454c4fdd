"""Calibration of a detector: curves and thresholds from val, their figures on test, and what they promise, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vqc.data.dataset import Data, Split
from vqc.evaluation.calibration_fit import (
    CalibrationErrors,
    Choice,
    ReliabilityBin,
    choose_curves,
    errors,
    reliability,
    samples_of,
)
from vqc.evaluation.evaluate import check_categories, detections_on
from vqc.evaluation.image_metrics import Verdicts, part_verdicts
from vqc.evaluation.intervals import confidence_of, parts_needed, percent
from vqc.evaluation.operating_point import Goal, check_parts, choose_operating_point
from vqc.inference.calibration import Calibration, OperatingPoint, apply_curves
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor
from vqc.inference.torch_backend import torch_predictor
from vqc.models.checkpoint import load_model

USUAL_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class OnTest:
    """What a calibration does on the test split: errors and reliability of the scores before and after it."""

    before: CalibrationErrors
    after: CalibrationErrors
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]
    verdicts: Verdicts


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationReport:
    """A calibration, how it was chosen on val, and its figures on test; None without a test split."""

    calibration: Calibration
    choice: Choice
    val_images: int
    on_test: OnTest | None
    sentences: tuple[str, ...]


def calibrate(
    model_path: Path, data: Data, *, goal: Goal, on_step: Callable[[str], None] = lambda text: None
) -> CalibrationReport:
    """Fit curves and thresholds on val; measure both on test.

    Raises:
        ModelError: the weights cannot be used, or know other categories.
        DataError: val has too few defective parts for the goal.
    """
    check_parts(data.val, goal, command=f"vqc calibrate --model {model_path} --data {data.root}")
    predictor = torch_predictor(*load_model(model_path))
    check_categories(model_path, predictor, data)
    on_step(f"finding defects on {len(data.val.images)} images of val")
    calibration, choice, _ = fit_calibration(predictor, model_path.name, data, goal=goal)
    on_test = None
    if data.test is not None:
        on_step(f"finding defects on {len(data.test.images)} images of test")
        on_test = _on_test(data.test, detections_on(predictor, data, "test"), calibration)
    return CalibrationReport(
        calibration=calibration,
        choice=choice,
        val_images=len(data.val.images),
        on_test=on_test,
        sentences=(
            *promise(calibration.operating_point),
            *_results(calibration.operating_point, on_test.verdicts if on_test else None),
        ),
    )


def fit_calibration(
    predictor: Predictor, model_file: str, data: Data, *, goal: Goal
) -> tuple[Calibration, Choice, list[Detections]]:
    """Curves and thresholds from the val split, which ``check_parts`` has passed.

    Returns:
        The calibration, how its curves were chosen, and the calibrated detections on val.
    """
    found = detections_on(predictor, data, "val")
    choice = choose_curves(samples_of(data.val, found))
    calibrated = [replace(one, scores=apply_curves(choice.curves, one.scores, one.labels)) for one in found]
    calibration = Calibration(
        model_file=model_file,
        weights_sha256=predictor.weights_sha256,
        data_fingerprint=data.fingerprint,
        categories=predictor.categories,
        method=choice.method,
        curves=choice.curves,
        operating_point=choose_operating_point(data.val, calibrated, goal=goal),
    )
    return calibration, choice, [calibration.calibrated(one) for one in found]


def _on_test(split: Split, found: Sequence[Detections], calibration: Calibration) -> OnTest:
    samples = samples_of(split, found)
    after = samples.calibrated(calibration.curves)
    calibrated = [calibration.calibrated(one) for one in found]
    return OnTest(
        before=errors(samples),
        after=errors(after),
        bins_before=reliability(samples),
        bins_after=reliability(after),
        verdicts=part_verdicts(split, calibrated, thresholds=calibration.thresholds),
    )


def promise(point: OperatingPoint) -> Iterator[str]:
    """What the threshold promises about new parts."""
    goal, total = percent(point.max_escape), point.escape.total
    if not point.reached:
        yield (
            f"The goal of at most {goal} escapes is not reached: on {point.escape.count} of {total} defective val "
            f"parts nothing is found at any threshold, and at most {point.tolerated} may pass. "
            "A detector trained with a lower score_floor returns fainter findings."
        )
        return
    if point.confidence is None:
        sure = confidence_of(point.tolerated, total, point.max_escape)
        yield (
            f"A new defective part passes with a probability of at most {goal}, on average over val splits of this "
            f"size. That the rate of this very detector is at most {goal} has a confidence of {percent(sure)}; a "
            f"threshold for {percent(USUAL_CONFIDENCE)} confidence takes at least "
            f"{parts_needed(point.max_escape, confidence=USUAL_CONFIDENCE)} defective val parts."
        )
    else:
        yield f"With {percent(point.confidence)} confidence at most {goal} of new defective parts pass."
    yield (
        "This holds for parts like those of val. It leaves out that val also chose the epoch, the configuration and "
        "the score curves: the test split has the last word."
    )


def _results(point: OperatingPoint, verdicts: Verdicts | None) -> Iterator[str]:
    """What the threshold does on val and on test."""
    yield (
        f"On val {point.escape.count} of {point.escape.total} defective parts pass; {point.tolerated} are tolerated. "
        + (
            f"{point.overkill.count} of {point.overkill.total} good parts are rejected. "
            if point.overkill.total
            else "There are no good parts, so there is no overkill rate. "
        )
        + "Val chose the threshold, so these counts have no confidence interval."
    )
    for name, rate in (("escape", verdicts.escape), ("overkill", verdicts.overkill)) if verdicts else ():
        if rate.low is None or rate.high is None:
            yield f"On test there is no rate of {name}: {rate.reason}."
        else:
            yield f"On test {name} is {rate}."
