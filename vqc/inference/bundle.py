"""The folder of a promoted detector: what lies in it, whether it is whole, and how its val photographs look.

``MANIFEST`` names every other file with its sha256. Golden images are photographs with the detections that the exported
file found when it was made: whoever opens the bundle elsewhere can check that it still finds the same. Nothing here
needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from vqc.config import Record
from vqc.data.image_io import DecodedPicture, picture_bytes
from vqc.errors import DataError, ModelError
from vqc.files import file_sha256, write_atomically, write_json
from vqc.inference.detections import Detections
from vqc.inference.predictor import Predictor

MANIFEST = "manifest.json"
GOLDEN = "golden/golden.json"
REFERENCE = "reference_stats.json"
CHAMPION = "champion.json"  # in the folder of the bundles: which of them is the champion
CHALLENGER = "challenger.json"  # and which is the newest that did not replace it
GOLDEN_IMAGES = 4
SAME_SCORE, SAME_PX = 1e-3, 0.1  # what another processor or another version of the runtime may change
STEPS = 20  # a distribution is kept as its quantiles at so many equal steps


class Distribution(Record):
    """One figure of the photographs."""

    mean: float
    std: float
    quantiles: tuple[float, ...] = Field(description="at 0, 5, ... 100 %")


class ReferenceStats(Record):
    """How the val photographs look, against which new ones are compared."""

    images: int = Field(ge=1)
    brightness: Distribution = Field(description="mean of the grey values, 0 to 255")
    contrast: Distribution = Field(description="standard deviation of the grey values")
    sharpness: Distribution = Field(
        description="variance of the Laplacian of the grey values, as decoded for the detector"
    )
    width_px: Distribution
    height_px: Distribution
    score: Distribution = Field(description="highest score of a photograph, as judged; 0 where nothing is found")


class GoldenImage(Record):
    """A photograph of the bundle and what the exported file found on it."""

    file: str = Field(description="relative to the bundle, with forward slashes")
    boxes: tuple[tuple[float, float, float, float], ...] = Field(description="xyxy in pixels of the upright photograph")
    scores: tuple[float, ...] = Field(description="calibrated where the bundle has a calibration")
    labels: tuple[int, ...]


def reference_stats(photographs: Iterable[DecodedPicture], highest: Sequence[float]) -> ReferenceStats:
    """The statistics of photographs, of which one is held at a time, and of the highest score on each.

    They must be decoded as the detector sees them: with fewer pixels a photograph is sharper.
    """
    rows = [(*appearance(one.pixels), *one.size) for one in photographs]
    names = ("brightness", "contrast", "sharpness", "width_px", "height_px", "score")
    figures = zip(names, [*np.array(rows).T, np.array(highest)], strict=True)
    return ReferenceStats(images=len(rows), **{name: distribution(values) for name, values in figures})


def appearance(pixels: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Brightness, contrast and sharpness of a photograph [h, w, 3] RGB; see ``ReferenceStats``."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    (mean,), (std,) = cv2.meanStdDev(grey)
    _, (edges,) = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))  # exact: at most 1,020
    return float(mean[0]), float(std[0]), float(edges[0]) ** 2


def distribution(values: NDArray[np.float64]) -> Distribution:
    """What is kept of the values [n] of one figure."""
    quantiles = np.quantile(values, np.linspace(0, 1, STEPS + 1))
    return Distribution(mean=float(values.mean()), std=float(values.std()), quantiles=tuple(quantiles.tolist()))


def choose_golden(photographs: Sequence[tuple[Path, bool]]) -> list[Path]:
    """Some photographs, of defective (True) and of good parts as far as there are both."""
    bad, good = ([path for path, defective in photographs if defective is wanted] for wanted in (True, False))
    half = GOLDEN_IMAGES // 2
    return [*bad[: max(half, GOLDEN_IMAGES - len(good))], *good][:GOLDEN_IMAGES]


def write_golden(bundle: Path, photographs: Sequence[Path], predictor: Predictor) -> None:
    """Copy the photographs into the bundle, with what the exported detector finds on them."""
    golden = []
    for number, path in enumerate(photographs):
        data = picture_bytes(path)
        file = PurePosixPath("golden", f"{number}{path.suffix.lower()}")
        write_atomically(bundle / file, data)
        found = predictor.detect(predictor.decode(data))
        golden.append(
            GoldenImage(
                file=str(file),
                boxes=tuple(map(tuple, found.boxes.astype(float).tolist())),
                scores=tuple(found.scores.astype(float).tolist()),
                labels=tuple(found.labels.tolist()),
            ).model_dump(mode="json")
        )
    write_json(bundle / GOLDEN, golden)


def write_manifest(bundle: Path) -> None:
    """Name every file of the bundle with its sha256."""
    write_json(bundle / MANIFEST, {name: file_sha256(bundle / name) for name in _files(bundle)})


def name_champion(promoted: Path, bundle: Path) -> None:
    """Write into the folder of bundles which one is the champion, for a server that does not ask the registry."""
    _name(promoted, CHAMPION, bundle)


def name_challenger(promoted: Path, bundle: Path) -> None:
    """The same for the newest that did not become champion."""
    _name(promoted, CHALLENGER, bundle)


def champion_of(promoted: Path) -> Path:
    """The folder of the champion.

    Raises:
        ModelError: none was promoted yet, or the file that names it is damaged.
    """
    if not (promoted / CHAMPION).is_file():
        raise ModelError(f"{promoted}: no champion yet", command="python tune/export_best.py")
    if (folder := _named(promoted, CHAMPION)) is None:
        raise ModelError(f"{promoted / CHAMPION}: does not name a bundle", command="python tune/export_best.py")
    return folder


def challenger_of(promoted: Path) -> Path | None:
    """The folder of the challenger; None where there is none, or the file that names it is damaged."""
    return _named(promoted, CHALLENGER)


def _name(promoted: Path, file: str, bundle: Path) -> None:
    beside = bundle.parent.resolve() == promoted.resolve()
    write_json(promoted / file, {"bundle": bundle.name if beside else str(bundle.absolute())})


def _named(promoted: Path, file: str) -> Path | None:
    try:
        name = json.loads((promoted / file).read_text(encoding="utf-8"))["bundle"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(name, str) or (Path(name).name != name and not Path(name).is_absolute()):
        return None
    return promoted / name


def check_bundle(bundle: Path, predictor: Predictor) -> None:
    """Check the files against the manifest, and what the detector finds on the golden images.

    Raises:
        ModelError: a file is missing, changed or not in the manifest, or a golden image has other detections.
    """
    try:
        expected = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        golden = [GoldenImage.model_validate(one) for one in json.loads((bundle / GOLDEN).read_text(encoding="utf-8"))]
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{bundle}: not a whole bundle: {str(error).splitlines()[0]:.120}") from None
    there = {name: file_sha256(bundle / name) for name in _files(bundle)}
    if wrong := sorted(name for name in {*there, *expected} if there.get(name) != expected.get(name)):
        raise ModelError(f"{bundle / wrong[0]}: missing, changed or not in {MANIFEST}; promote the detector again")
    for one in golden:
        _check_golden(bundle, one, predictor)


def _check_golden(bundle: Path, golden: GoldenImage, predictor: Predictor) -> None:
    try:
        decoded = predictor.decode(picture_bytes(bundle / golden.file))
    except DataError as error:
        raise ModelError(f"{bundle / golden.file}: {error.what}") from None
    found = predictor.detect(decoded)
    # Those near the lowest score that is returned may come and go with the last bit.
    lowest = min((*golden.scores, *found.scores.tolist()), default=0.0) + SAME_SCORE
    expected = Detections(
        boxes=np.array(golden.boxes, np.float32).reshape(-1, 4),
        scores=np.array(golden.scores, np.float32),
        labels=np.array(golden.labels, np.int64),
    )
    for some, others in ((expected, found), (found, expected)):
        if (alone := _without_partner(some, others, lowest)) is not None:
            raise ModelError(
                f"{bundle / golden.file}: the detection with score {alone:.4f} has no equal within {SAME_PX} px and "
                f"{SAME_SCORE}; this machine does not find what the bundle's found"
            )


def _without_partner(some: Detections, others: Detections, lowest: float) -> float | None:
    """The score of a detection that the others lack."""
    for box, score, label in zip(some.boxes, some.scores, some.labels, strict=True):
        near = np.abs(others.boxes - box).max(axis=1, initial=0.0) <= SAME_PX
        if (
            score > lowest
            and not (near & (others.labels == label) & (np.abs(others.scores - score) <= SAME_SCORE)).any()
        ):
            return float(score)
    return None


def _files(bundle: Path) -> Iterator[str]:
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_file() and name != MANIFEST and "__pycache__" not in name:
            yield name
