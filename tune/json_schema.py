"""JSON schemas beside the configuration files, so that an editor completes and checks them.

python -m tune.json_schema configs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune.policy.portfolio import Portfolio
from tune.settings import SearchSettings
from vqc.config import Record, TrainConfig
from vqc.files import write_atomically

SCHEMAS: Mapping[str, type[Record]] = {
    "train_config.schema.json": TrainConfig,
    "search.schema.json": SearchSettings,
    "portfolio.schema.json": Portfolio,
}


def schema_text(kind: type[Record]) -> str:
    """The JSON schema of a record, as it stands in its file."""
    schema = kind.model_json_schema()
    properties: dict[str, Any] = schema["properties"]
    properties["$schema"] = {"type": "string"}
    if kind is SearchSettings:
        named = {"type": "string", "description": "name of a training configuration's file, relative to this one"}
        properties["train"] = {"anyOf": [properties["train"], named]}
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


if __name__ == "__main__":
    for name, kind in SCHEMAS.items():
        write_atomically(Path(sys.argv[1]) / name, schema_text(kind).encode())
