"""What the tree keeps to beside its import contracts (``lint-imports``): sizes, names, what a module shows."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from vqc.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in ("vqc", "tune")
    for path in sorted((ROOT / package).rglob("*.py"))
}
MOST_LINES = {"module": 400, "class": 220, "function": 60}
MOST_MODULES = 16  # of a package
VAGUE = {"common", "core", "helper", "helpers", "misc", "util", "utils"}


def too_long(module: str, tree: ast.Module) -> Iterator[str]:
    """The module, and the classes and functions in it, that are longer than they may be."""
    if len((ROOT / module).read_text(encoding="utf-8").splitlines()) > MOST_LINES["module"]:
        yield f"{module}: module"
    kinds = {ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}
    for node in ast.walk(tree):
        kind = kinds.get(type(node))
        if kind and node.end_lineno - node.lineno + 1 > MOST_LINES[kind]:
            yield f"{module}: {kind} {node.name}"


def test_modules_classes_and_functions_are_short() -> None:
    assert {name for module, tree in TREES.items() for name in too_long(module, tree)} == set()


def test_packages_are_small() -> None:
    sizes = Counter(PurePosixPath(module).parent for module in TREES if not module.endswith("__init__.py"))
    assert {package: size for package, size in sizes.items() if size > MOST_MODULES} == {}


def test_no_name_is_vague() -> None:
    assert [module for module in TREES if VAGUE & set(PurePosixPath(module).with_suffix("").parts)] == []


def test_every_folder_of_modules_is_a_package() -> None:
    """Without an ``__init__`` it would be skipped by the wheel's list, by mypy and by the import contracts."""
    folders = {PurePosixPath(module).parent for module in TREES}
    assert [folder for folder in folders if f"{folder}/__init__.py" not in TREES] == []


def test_a_package_exports_nothing() -> None:
    """Else importing one of its modules would load the others."""
    inits = {module: tree for module, tree in TREES.items() if module.endswith("__init__.py")}
    assert [module for module, tree in inits.items() if len(tree.body) != 1 or not ast.get_docstring(tree)] == []


def test_nothing_in_tune_hides_another_module() -> None:
    """``python tune/search.py`` puts that folder first on the path."""
    ours = {path.stem for path in (ROOT / "tune").iterdir() if path.suffix == ".py" or path.is_dir()}
    others = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    assert (ours - {"__init__", "__pycache__"}) & others == set()


def test_every_test_file_has_its_module() -> None:
    files = [path for package in ("vqc", "tune") for path in (ROOT / "tests" / package).rglob("test_*.py")]
    tested = [path.relative_to(ROOT / "tests").with_name(path.name.removeprefix("test_")).as_posix() for path in files]
    assert [module for module in tested if module not in TREES] == []


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, encoding="utf-8"
    ).stdout.strip()


def test_importing_all_of_vqc_loads_nothing_of_the_search_and_nothing_slow() -> None:
    names = [module[:-3].replace("/", ".") for module in TREES if module.startswith("vqc/")]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "print(sorted({'tune', 'ray', 'optuna', 'mlflow', 'albumentations', 'matplotlib'} & set(sys.modules)))"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize(
    ("module", "words"),
    [("tune.search", []), ("tune.export_best", []), ("vqc.cli.main", [])]
    + [("vqc.cli.main", [name]) for name in COMMANDS],
)
def test_help_loads_nothing_heavy(module: str, words: list[str]) -> None:
    """With what is excluded here it takes 0.05 to 0.1 s."""
    code = (
        f"import contextlib, io, sys; from {module} import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main({[*words, '--help']})\n"
        "print(sorted({'torch', 'ray', 'optuna', 'mlflow', 'matplotlib', 'cv2', 'rich', 'numpy', 'pydantic'} "
        "& set(sys.modules)))"
    )
    assert run(code) == "[]"


def test_every_module_says_what_it_is() -> None:
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_what_begins_with_an_underscore_stays_in_its_module() -> None:
    """That, and nothing else, says what is private: no module has an ``__all__`` beside it."""
    nodes = [(module, node) for module, tree in TREES.items() for node in ast.walk(tree)]
    taken = {
        f"{module}: {alias.name}"
        for module, node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("vqc", "tune")
        for alias in node.names
        if alias.name.startswith("_")
    }
    assert taken == set()
    assert [module for module, node in nodes if isinstance(node, ast.Name) and node.id == "__all__"] == []


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of everything that a module imports anywhere, in functions too."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {f"{n.module}.{alias.name}" for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}


def test_nothing_is_unpickled() -> None:
    """But ``pickle.UnpicklingError``: torch raises it where it refuses to."""
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    names = {module: imported(tree) - {"pickle.UnpicklingError"} for module, tree in TREES.items()}
    assert [module for module, all_ in names.items() if unsafe & {name.partition(".")[0] for name in all_}] == []


def test_text_files_are_opened_as_utf_8() -> None:
    """Windows would take its own code page."""
    bare = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("read_text", "write_text")
        and "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert bare == []
