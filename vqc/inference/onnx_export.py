"""A trained detector -> one ONNX file that can be used alone, proof that it finds the same, and how fast it is.

Called by ``tune.promote``. The exported graph takes one fitted image, ``images`` uint8 [1, 3, H, W] RGB, and returns
``boxes`` float32 [m, 4] xyxy in pixels of the fitted image, ``scores`` float32 [m] in 0..1 and ``labels`` int64 [m] in
1..C. Its metadata hold what a user of the file alone must know: categories, input size, padding, data.
"""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqc.data.letterbox import PAD_VALUE, fit_image
from vqc.errors import ModelError
from vqc.files import write_atomically
from vqc.hardware.memory import free_memory, is_out_of_memory
from vqc.hardware.precision import Precision
from vqc.inference.detections import Detections
from vqc.models.checkpoint import ModelInfo

__all__ = [
    "Detector",
    "Latency",
    "OnnxDetector",
    "ParityReport",
    "check_parity",
    "export_onnx",
    "measure_latency",
    "onnx_detector",
    "torch_detector",
]

OPSET = 17  # the newest that needs no rewriting of these graphs, and old enough for TensorRT 8 and OpenVINO
PREFIX = "vqc."

PARITY_SCORE = 0.05  # what scores less is noise to every user of a detector
PARITY_IOU = 0.99
PARITY_SCORE_DIFFERENCE = 1e-3
SAME_PX = 0.01  # corners nearer than this are the same, however small the box
# Two boxes whose scores or overlaps are equal but for the last bit may change places in a suppression or at a limit
# of candidates, and then one is returned by one side alone. That is rare and no fault; more than this share is one.
ALLOWED_UNMATCHED = 0.01

WARM_UP_RUNS = 5
TIMED_RUNS = 50
FEWEST_RUNS = 10
LONGEST_S = 15.0

Detector = Callable[[NDArray[np.uint8]], Detections]  # [h, w, 3] RGB -> in that image's pixels, best first


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What ONNX found beside what torch found, both in float32 on the CPU, on the same fitted images.

    Attributes:
        images: compared.
        detections: torch's, with a score above ``PARITY_SCORE``.
        unmatched: detections of either side without a partner of the same label on the other.
        worst_iou: lowest overlap of two partners, 1 where their corners agree to ``SAME_PX``; None without any.
        worst_score_difference: largest between two partners; None without any.
    """

    images: int
    detections: int
    unmatched: int
    worst_iou: float | None
    worst_score_difference: float | None

    @property
    def passed(self) -> bool:
        """Whether the exported file may stand for the model: partners agree, and nearly all have one."""
        agree = (self.worst_score_difference or 0.0) <= PARITY_SCORE_DIFFERENCE
        return agree and self.unmatched <= ALLOWED_UNMATCHED * self.detections


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from a decoded picture to its detections, one at a time: fitting, the network, sorting.

    Decoding the file is left out, and so are the warm-up runs.
    """

    p50_ms: float
    p95_ms: float
    runs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxDetector:
    """An exported detector, ready to run. Call it with a picture of any size."""

    categories: tuple[tuple[int, str], ...]
    size: tuple[int, int]
    fingerprint: str
    session: Any  # an onnxruntime.InferenceSession

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Detections in pixels of ``image``, [h, w, 3] RGB; their ``image_id`` is 0."""
        height, width = image.shape[:2]
        found = Detections.from_output(*self.raw(fit_image(image, self.size)))
        return found.in_image(0, width=width, height=height, size=self.size)

    def raw(self, fitted: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes, scores and labels in pixels of the fitted image, [H, W, 3] of exactly ``size``."""
        batch = np.ascontiguousarray(fitted.transpose(2, 0, 1))[None]
        boxes, scores, labels = self.session.run(["boxes", "scores", "labels"], {"images": batch})
        return boxes, scores, labels


class _OneImage(nn.Module):
    """The detector as the exported file runs it: a batch of one in, three plain tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (found,) = self.model(images)
        return found["boxes"], found["scores"], found["labels"]


def export_onnx(model: nn.Module, info: ModelInfo, path: Path) -> None:
    """Write the detector as one ONNX file, in float32; it exists whole or not at all.

    Args:
        model: on the CPU; it is left in evaluation mode.

    Raises:
        ModelError: torch cannot export it, or the result breaks ONNX's own rules.
    """
    import onnx

    height, width = info.config.image_size
    pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    graph = io.BytesIO()
    try:
        with torch.inference_mode(), _quiet_export():
            torch.onnx.export(
                _OneImage(model).eval(),
                (pixels,),
                cast(Any, graph),  # the exporter used here takes a file object; the annotation tells of the other one
                dynamo=False,  # the newer exporter fails on every detector of torchvision
                opset_version=OPSET,
                input_names=["images"],
                output_names=["boxes", "scores", "labels"],
                dynamic_axes={name: {0: "detections"} for name in ("boxes", "scores", "labels")},
            )
        exported = onnx.load_from_string(graph.getvalue())
        onnx.helper.set_model_props(exported, _metadata(info))
        onnx.checker.check_model(exported)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: '{info.config.model}' cannot be exported to ONNX: {error}") from error
    write_atomically(path, exported.SerializeToString())


def _metadata(info: ModelInfo) -> dict[str, str]:
    values = {
        "model": info.config.model,
        "epoch": str(info.epoch),
        "categories": json.dumps(info.categories),
        "image_size": json.dumps(info.config.image_size),
        "pad_value": str(PAD_VALUE),
        "fingerprint": info.fingerprint,
        "input": "uint8 RGB; scaled to fit the top left corner of image_size (height, width), the rest pad_value",
        "output": "boxes xyxy in pixels of the fitted image, scores 0..1, labels 1.. in the order of categories",
    }
    return {PREFIX + name: value for name, value in values.items()}


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Without what torch says of its own exporter and of tracing.

    The sizes that tracing makes constant are constant here, and the parity check finds it if anything else became so.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=kind, module=r"torch\.")
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        yield


def onnx_detector(path: Path, *, threads: int | None = None) -> OnnxDetector:
    """The detector in a file that ``export_onnx`` wrote, on the CPU.

    Args:
        threads: of one run; None: as many as there are cores.

    Raises:
        ModelError: the file is missing, damaged, or not exported by this project.
    """
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path}: no such file, expected an exported detector")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are of constants that it folds away
    options.intra_op_num_threads = threads or 0
    try:
        # From bytes: the runtime would open a path of its own making, which fails on some Windows code pages.
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (the runtime's exceptions share no ancestor but this)
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path}: not a whole ONNX file ({reason})") from None
    found: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    try:
        height, width = json.loads(found[f"{PREFIX}image_size"])
        categories = tuple((int(id_), str(name)) for id_, name in json.loads(found[f"{PREFIX}categories"]))
        fingerprint = found[f"{PREFIX}fingerprint"]
    except (KeyError, ValueError, TypeError):
        raise ModelError(f"{path}: not exported by this project; its metadata lack categories or size") from None
    return OnnxDetector(categories=categories, size=(height, width), fingerprint=fingerprint, session=session)


def torch_detector(model: nn.Module, *, size: tuple[int, int], precision: Precision) -> Detector:
    """The model as a function of one picture, [h, w, 3] RGB, on the device that it is moved to here.

    Where a GPU's memory does not hold one picture, because others use it too, the model goes on on the CPU.
    """
    from vqc.models.build import move_detector  # loads torchvision, which an ONNX file does without

    move_detector(model, precision.device).eval()

    def run(image: NDArray[np.uint8]) -> Detections:
        nonlocal precision
        fitted = _batch(fit_image(image, size))
        found = _found(model, fitted, precision)
        if found is None:
            precision = Precision(device=torch.device("cpu"), dtype=torch.float32)
            move_detector(model, precision.device)
            free_memory()
            return run(image)
        height, width = image.shape[:2]
        boxes, scores, labels = (found[name].cpu() for name in ("boxes", "scores", "labels"))  # waits for the GPU
        fitted_found = Detections.from_output(boxes.float().numpy(), scores.float().numpy(), labels.numpy())
        return fitted_found.in_image(0, width=width, height=height, size=size)

    return run


def _found(model: nn.Module, images: Tensor, precision: Precision) -> dict[str, Tensor] | None:
    """What the model finds on a batch of one; None where a GPU ran out of memory."""
    try:
        with torch.inference_mode(), precision.autocast():
            return cast(dict[str, Tensor], model(images.to(precision.device))[0])
    except RuntimeError as error:
        if precision.device.type == "cpu" or not is_out_of_memory(error):
            raise
        return None


def check_parity(model: nn.Module, exported: OnnxDetector, fitted: Sequence[NDArray[np.uint8]]) -> ParityReport:
    """Compare both on images [H, W, 3] of the detector's size.

    Partners have the same label and overlap by more than ``PARITY_IOU``, one to one, best scores first. A detection
    that scores just above ``PARITY_SCORE`` may have a partner just below it.

    Args:
        model: on the CPU; it is left in evaluation mode.
    """
    model.eval()
    detections, unmatched = 0, 0
    overlaps: list[float] = []
    differences: list[float] = []
    for image in fitted:
        with torch.inference_mode():
            (found,) = model(_batch(image))
        ours = (found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy())
        theirs = exported.raw(image)
        partners = _partners(ours, theirs)
        detections += int((ours[1] > PARITY_SCORE).sum())
        unmatched += _alone(ours[1], [i for i, _, _ in partners]) + _alone(theirs[1], [k for _, k, _ in partners])
        for i, k, overlap in partners:
            if max(ours[1][i], theirs[1][k]) > PARITY_SCORE:
                overlaps.append(overlap)
                differences.append(abs(float(ours[1][i]) - float(theirs[1][k])))
    return ParityReport(
        images=len(fitted),
        detections=detections,
        unmatched=unmatched,
        worst_iou=min(overlaps, default=None),
        worst_score_difference=max(differences, default=None),
    )


Raw = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]  # boxes, scores, labels of one image


def _partners(ours: Raw, theirs: Raw) -> list[tuple[int, int, float]]:
    """Positions on both sides and their IoU, one to one."""
    from torchvision.ops import box_iou

    boxes = torch.from_numpy(ours[0]).double(), torch.from_numpy(theirs[0]).double()
    overlaps = box_iou(*boxes).nan_to_num().numpy()  # two boxes without area have no overlap to speak of
    overlaps[torch.cdist(*boxes, p=torch.inf).numpy() <= SAME_PX] = 1.0
    overlaps[ours[2][:, None] != theirs[2][None, :]] = 0.0
    found = []
    for i in np.argsort(-ours[1], kind="stable"):
        if overlaps.shape[1] and (overlap := float(overlaps[i].max())) > PARITY_IOU:
            k = int(overlaps[i].argmax())
            overlaps[:, k] = 0.0
            found.append((int(i), k, overlap))
    return found


def _alone(scores: NDArray[np.float32], matched: Sequence[int]) -> int:
    """How many score above the floor and have no partner."""
    counts = scores > PARITY_SCORE
    counts[list(matched)] = False
    return int(counts.sum())


def measure_latency(detector: Detector, images: Sequence[NDArray[np.uint8]]) -> Latency:
    """Time a detector on decoded pictures, [h, w, 3] RGB, in turn: ``TIMED_RUNS`` runs, fewer of a slow one."""
    for run in range(WARM_UP_RUNS):
        detector(images[run % len(images)])
    times_ms: list[float] = []
    while len(times_ms) < TIMED_RUNS and (sum(times_ms) < 1000 * LONGEST_S or len(times_ms) < FEWEST_RUNS):
        started_s = time.perf_counter()
        detector(images[len(times_ms) % len(images)])
        times_ms.append(1000 * (time.perf_counter() - started_s))
    p50_ms, p95_ms = (float(value) for value in np.percentile(times_ms, (50, 95)))
    return Latency(p50_ms=p50_ms, p95_ms=p95_ms, runs=len(times_ms))


def _batch(fitted: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None]  # a copy: cached images are read-only
