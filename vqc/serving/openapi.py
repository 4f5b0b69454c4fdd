"""The committed description of the API, from which clients are made: ``python -m vqc.serving.openapi`` renews it."""

from __future__ import annotations

import json
from pathlib import Path

from vqc.files import write_atomically
from vqc.serving.app import build_app

COMMITTED = Path(__file__).with_name("openapi.json")


def description() -> str:
    """The description that the server gives under ``/openapi.json``, as JSON that is pleasant to compare."""
    return json.dumps(build_app().openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    write_atomically(COMMITTED, description().encode())
