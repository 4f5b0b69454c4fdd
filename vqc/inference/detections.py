"""What a detector found on one image: the one record that training, evaluation, prediction and explanation share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """Detections on one image, best score first.

    ``boxes`` float32 [m, 4] xyxy in pixels of the image as annotated, or of the fitted image where that is said;
    ``scores`` float32 [m] in 0..1; ``labels`` int64 [m] in 1..C.
    """

    image_id: int = 0
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def from_output(
        cls, boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> Detections:
        """A detector's output [m, 4], [m], [m] in any order; what is labelled 0 is left out."""
        # torchvision's FCOS and RetinaNet score a class "background" too
        return cls(boxes=boxes, scores=scores, labels=labels)[labels > 0].best_first()

    @classmethod
    def none(cls, image_id: int = 0) -> Detections:
        """Nothing found."""
        return cls(image_id=image_id, boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32),
                   labels=np.zeros(0, np.int64))  # fmt: skip

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[Any] | list[int] | slice) -> Detections:
        """Those that a bool mask [m], int positions [k] or a slice choose."""
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen])

    def best_first(self) -> Detections:
        """The same, sorted by falling score; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]

    def reaching(self, thresholds: Mapping[int, float]) -> Detections:
        """Those that reach their class's threshold."""
        return self[self.reaches(thresholds)]

    def reaches(self, thresholds: Mapping[int, float]) -> NDArray[np.bool_]:
        """Which [m] reach their class's threshold, label in 1..C -> lowest score that rejects a part.

        Both sides are compared as float32, so that a score equal to the threshold as it was typed rejects.
        """
        lowest = np.array([thresholds[int(label)] for label in self.labels], np.float32)
        return np.asarray(self.scores >= lowest)
