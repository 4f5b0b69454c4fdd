"""Good tiles on which a model finds defects: half of an epoch's good tiles are such (hard negatives).

They are looked for before each epoch but the first, with the model as it is then. So nothing has to be remembered, and
a resumed run trains on the same tiles.
"""

from __future__ import annotations

from vqc.data.loader import FittedImages, evaluation_batches
from vqc.evaluation.coco_metrics import detect_views
from vqc.hardware.memory import MicroBatch
from vqc.hardware.precision import Precision
from vqc.seeding import stream_seed
from vqc.training.state import LoopState


def false_alarms(
    state: LoopState, images: FittedImages, *, epoch: int, precision: Precision, micro: MicroBatch
) -> list[int]:
    """Positions of the good tiles with the highest false alarms, as many as an epoch takes of them or fewer."""
    config, chosen = state.info.config, images.chosen
    if epoch == 1 or not chosen.most_hard:
        return []
    examined = chosen.examined(seed=stream_seed(config.seed, "examined tiles", epoch))
    batches = evaluation_batches(images, batch_size=config.batch_size, threads=config.num_workers, indices=examined)
    found = detect_views(state.evaluated, batches, precision=precision, micro=micro)
    highest = {index: float(one.scores.max()) for index, one in found if len(one)}
    return sorted(highest, key=lambda index: -highest[index])[: chosen.most_hard]
