"""Seeds by name: every random stream of a run is derived from its one seed, so none disturbs another.

The streams are ``init`` (weights), ``shuffle`` (order of an epoch), ``augment`` and ``paste`` (one image in one
epoch) and ``sampler`` (what torchvision's losses draw inside a step).
"""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, stream: str, *counters: int) -> int:
    """A seed in 0..2^32-1 that depends on all arguments, the same on every machine and Python.

    Example:
        ``stream_seed(0, "augment", epoch, image)``
    """
    key = ":".join([str(seed), stream, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
