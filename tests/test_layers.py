"""The house's walls: who may import what, what a module shows, how long a function may be."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for package in ("vqc", "tune") for path in (ROOT / package).rglob("*.py")
)
LONGEST_FUNCTION = 70
LONGEST_MODULE = 420

every_module = pytest.mark.parametrize("module", MODULES)

# Who alone may import what costs seconds, reports home, or is likely to be replaced one day.
DOORS = {
    "albumentations": {"vqc/data/transforms.py"},
    "mlflow": {"vqc/tracking/mlflow_client.py"},
    "optuna": {"tune/policy/propose.py", "tune/reporting/html_report.py", "tune/policy/sampler.py", "tune/space.py"},
    "ray": {"tune/execution/ray_backend.py"},
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def imported(module: str) -> set[str]:
    """Top-level packages that a module imports anywhere, in functions too."""
    return {name.partition(".")[0] for name in imported_names(module)}


def imported_names(module: str) -> set[str]:
    """The same with the whole dotted name of what is imported."""
    nodes = list(ast.walk(tree(module)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {f"{n.module or ''}.{alias.name}" for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}
    return plain | named


@pytest.mark.parametrize("package", DOORS)
def test_one_door_to_each_heavy_package(package: str) -> None:
    assert {module for module in MODULES if package in imported(module)} <= DOORS[package]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("vqc/")])
def test_training_knows_nothing_of_the_search(module: str) -> None:
    assert imported(module).isdisjoint({"tune", "ray", "optuna"})


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, encoding="utf-8"
    ).stdout.strip()


def test_importing_all_of_vqc_loads_nothing_of_the_search() -> None:
    names = [module[:-3].replace("/", ".") for module in MODULES if module.startswith("vqc/")]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "print(sorted({'tune', 'ray', 'optuna', 'mlflow', 'albumentations', 'matplotlib'} & set(sys.modules)))"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("command", ["vqc.cli.main", "tune.search", "tune.export_best"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        f"import contextlib, io, sys; sys.argv = ['x']; from {command} import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(sorted({'torch', 'ray', 'optuna', 'mlflow', 'matplotlib', 'cv2', 'rich'} & set(sys.modules)))"
    )
    assert run(code) == "[]"


def test_no_module_of_tune_hides_another() -> None:
    """``python tune/search.py`` puts that folder first on the path."""
    ours = {Path(module).stem for module in MODULES if module.startswith("tune/")}
    others = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    assert ours & others <= {"__init__"}


@every_module
def test_what_a_module_shows_is_what_it_says(module: str) -> None:
    body = tree(module).body
    defined = {
        node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    said = [ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign) and is_all(node)]
    if not defined:
        assert said == []
        return
    assert len(said) == 1, f"{module} has no __all__"
    assert said[0] == sorted(said[0], key=in_order)
    assert defined - set(said[0]) == set()


def in_order(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then functions, as ruff sorts them."""
    return not name.isupper(), not name[0].isupper(), name


def is_all(node: ast.Assign) -> bool:
    return [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__all__"]


@every_module
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(tree(module))


@every_module
def test_no_function_is_long(module: str) -> None:
    long = {
        node.name: lines
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert long == {}


@every_module
def test_no_module_is_long(module: str) -> None:
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@every_module
def test_nothing_is_unpickled(module: str) -> None:
    names = imported_names(module) - {"pickle.UnpicklingError"}  # what torch raises where it refuses to
    packages = {name.partition(".")[0] for name in names}
    assert packages.isdisjoint({"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"})


@every_module
def test_text_files_are_opened_as_utf_8(module: str) -> None:
    """Windows would take its own code page."""
    calls = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    bare = [
        node.lineno
        for node in calls
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in ("read_text", "write_text")
        and "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert bare == []
