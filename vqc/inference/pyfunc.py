"""The promoted detector as MLflow's "python function": photographs in, verdicts and detections out, without torch.

The bundle's MLmodel file names this module; MLflow calls ``_load_pyfunc``. The answer is that of ``vqc predict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vqc.inference.model_file import open_predictor
from vqc.inference.photographs import Photograph
from vqc.inference.thresholds import resolve_thresholds
from vqc.inference.verdicts import coco_results, judge

INPUT = "image"  # the column with the bytes of JPEG, PNG, ... files


class Detector:
    """What ``mlflow.pyfunc.load_model`` wraps."""

    def __init__(self, bundle: Path) -> None:
        self._predictor = open_predictor(bundle / "model.onnx")
        self._thresholds, _ = resolve_thresholds(self._predictor, given=None)

    def predict(self, photographs: Mapping[str, Iterable[bytes]], params: object = None) -> list[dict[str, Any]]:
        """For each file in the column ``image`` (of a table or a dictionary) its verdict, ``pass`` or ``fail``, and its
        detections, ``category_id``, ``bbox`` (xywh in pixels of the upright photograph) and ``score``.

        Raises:
            DataError: a file that is no photograph.
        """
        return [self._answer(number, data) for number, data in enumerate(photographs[INPUT], start=1)]

    def _answer(self, number: int, data: bytes) -> dict[str, Any]:
        found = self._predictor.detect(self._predictor.decode(data), image_id=number)
        photograph = Photograph(image_id=number, path=Path(), file_name="")
        verdict = judge(photograph, found, self._predictor, thresholds=self._thresholds)
        names = dict(self._predictor.categories)
        return {
            "verdict": verdict.verdict,
            "detections": [
                {"category": names[row["category_id"]], **{key: row[key] for key in ("category_id", "bbox", "score")}}
                for row in coco_results(found, self._predictor)
            ],
        }


def _load_pyfunc(path: str) -> Detector:
    """Called by MLflow with the bundle's folder."""
    return Detector(Path(path))
