"""One bundle, and one server around it, for all tests of this folder that change neither."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import TOKEN, Client, running, settings_for, write_promoted


@pytest.fixture(scope="session")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_promoted(tmp_path_factory.mktemp("serving") / "promoted")


@pytest.fixture
def home(promoted: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the bundles, to change."""
    shutil.copytree(promoted, tmp_path / "promoted")
    return tmp_path


@pytest.fixture(scope="session")
def client(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server that needs a token."""
    settings = settings_for(tmp_path_factory.mktemp("served"), promoted=promoted, token=TOKEN)
    with running(settings) as (_, client):
        yield client
