"""What every test gets: one thread, its surroundings put back, and a tiny data set shared by all that train."""

from __future__ import annotations

import os
import random
import sys
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from tests.images import write_data
from tests.watching import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from vqc.data.dataset import Data

os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # messages name commands as typed without uv, however tests are run
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: more threads than free cores are slower than one
settings.register_profile("vqc", deadline=None)  # a shared machine stalls now and then; that is no failure
settings.load_profile("vqc")


@pytest.fixture(autouse=True)
def _surroundings() -> Iterator[None]:
    """Environment, random streams and torch's defaults are after a test what they were before it."""
    environment, numpy_state, python_state = dict(os.environ), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch = sys.modules.get("torch")  # not imported for the sake of tests that do without
    torch_state = torch.get_rng_state() if torch else None
    yield
    os.environ.clear()
    os.environ.update(environment)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)
    if torch:
        torch.set_rng_state(torch_state)
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Nine pictures of 64 x 48 px to train on, three of them good, four in val and three in test."""
    from vqc.data.dataset import load_data

    return load_data(write_data(tmp_path_factory.mktemp("data") / "tiny", train=9, val=4, test=3))


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    """Notes every file that is opened while it is switched on."""
    watch = Watch()
    sys.addaudithook(watch)
    yield watch
    watch.on = False


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights on the disk, and a proxy that nobody listens at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would remember the proxy
