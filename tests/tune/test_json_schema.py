"""The schemas beside the configurations are those of the records, and the configurations keep to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tune.json_schema import SCHEMAS, schema_text

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_is_up_to_date(name: str) -> None:
    written = (CONFIGS / name).read_text(encoding="utf-8")
    assert written == schema_text(SCHEMAS[name]), "renew it with: python -m tune.json_schema configs"


NAMED = [path for path in sorted(CONFIGS.glob("*.json")) if path.name != "pipeline.json"]  # that one is DVC's


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.name)
def test_a_configuration_names_a_schema_that_is_there(path: Path) -> None:
    schema = json.loads(path.read_text(encoding="utf-8"))["$schema"]
    assert schema.startswith("https://json-schema.org/") or (CONFIGS / schema).is_file()
