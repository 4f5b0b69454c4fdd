"""Keeps the terminal for the search: what libraries print goes to a log, from this process and its children."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["library_noise_to"]


@contextmanager
def library_noise_to(log: Path) -> Iterator[TextIO]:
    """Within it, file descriptors 1 and 2 lead to the log; yields the stream that still leads to the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    kept = os.dup(1), os.dup(2)
    with (
        log.open("ab", buffering=0) as noise,
        os.fdopen(os.dup(kept[0]), "w", encoding=encoding, errors="replace", buffering=1) as terminal,
    ):
        try:
            os.dup2(noise.fileno(), 1)
            os.dup2(noise.fileno(), 2)
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
