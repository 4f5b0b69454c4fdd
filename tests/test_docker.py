"""The images: what the server's installs, and what compose.yaml allows. ``test_docker_build`` builds and starts it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from vqc.cli.main import main

ROOT = Path(__file__).parent.parent
# A server, which has only ONNX files and promises nothing, does not get there (see the contract in pyproject.toml).
NEVER_REACHED = (
    ("vqc.evaluation.intervals", "scipy"),
    ("vqc.inference.model_file", "vqc.inference.torch_backend"),
    ("vqc.inference.model_file", "vqc.models.checkpoint"),
    ("vqc.inference.predictor", "torch"),
)
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


def group(name: str) -> set[str]:
    """The names in a dependency group of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(rf"^{name} = \[([^\]]+)\]", text, re.MULTILINE)
    return set(re.findall(r'"([\w-]+)"', listed))


def test_the_image_installs_what_the_server_imports_and_no_more() -> None:
    grimp = pytest.importorskip("grimp", reason="comes with import-linter, which needs Python 3.11")
    graph = grimp.build_graph("vqc", include_external_packages=True)
    for importer, imported in NEVER_REACHED:
        graph.remove_import(importer=importer, imported=imported)
    start = {"vqc.cli.serve", *graph.find_descendants("vqc.serving")}
    reached = set().union(*(graph.find_upstream_modules(module) for module in start))
    others = {name for name in reached if graph.is_module_squashed(name)} - sys.stdlib_module_names
    distributions = packages_distributions()
    assert {distributions[name][0].lower().replace("_", "-") for name in others} == group("serve")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (
        True, ["ALL"], ["no-new-privileges:true"],
    )  # fmt: skip
    assert "10001:10001" in service["user"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_uses_flags_that_the_server_has(capsys: pytest.CaptureFixture[str]) -> None:
    words = SERVICES["server"]["command"]
    with pytest.raises(SystemExit, match="^0$"):
        main(["serve", *words, "--help"])
