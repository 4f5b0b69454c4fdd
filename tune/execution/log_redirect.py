"""Keeps libraries quiet: what they print goes to a log, and none of them calls home."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


def quiet_environment(*, cluster: bool = False) -> None:
    """Settings that Ray and albumentations read from the environment, some of them while they are imported.

    No reports home, no files of Ray's own for each trial, no signal handler, no change of folder, and workers that
    are started by this Python, not once more by ``uv run`` with a copy of the working folder. Ray's token stays on:
    left to itself, Ray asks for none where it is given a cluster's address.

    Args:
        cluster: whether Ray joins machines; if not, all of its processes listen on this machine's loopback alone.
    """
    if not cluster:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # despite its name, what decides it on Linux as well
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",
        TUNE_GLOBAL_CHECKPOINT_S="86400",  # the journal is what a search is resumed from
        TUNE_WARN_THRESHOLD_S="10",
        NO_ALBUMENTATIONS_UPDATE="1",
    )
    os.environ.setdefault("RAY_AUTH_MODE", "token")


class _Terminal(io.FileIO):
    """It may be closed while a search runs; what is written after that goes nowhere, and the search goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextmanager
def library_noise_to(log: Path) -> Iterator[TextIO]:
    """Within it, file descriptors 1 and 2 lead to the log; yields the stream that still leads to the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    kept = os.dup(1), os.dup(2)
    with (
        log.open("ab", buffering=0) as noise,
        io.TextIOWrapper(
            io.BufferedWriter(_Terminal(os.dup(kept[0]), "w")), encoding, errors="replace", line_buffering=True
        ) as terminal,
    ):
        try:
            os.dup2(noise.fileno(), 1)
            os.dup2(noise.fileno(), 2)
            yield terminal
        finally:
            with suppress(OSError):  # the log's disk may be full
                sys.stdout.flush()
                sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
