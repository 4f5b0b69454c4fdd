"""Search policies of other libraries, each a script with an environment of its own (``other_libraries/``)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tune.settings import Dimension
from tune.space import Params

SCRIPTS = Path(__file__).resolve().parent / "other_libraries"
LAST_CHARACTERS = 2000  # of what a script wrote, where it fails


def search_with(
    script: str,
    space: Mapping[str, Dimension],
    default: Params,
    *,
    epochs: int,
    seed: int,
    values: Callable[[Params, int], Sequence[float] | None],
) -> str:
    """Lets a script search until there are no more values for it; returns the library's name and version.

    Args:
        values: accuracy after each of the first so many epochs of a configuration, per cent; None once the budget is
            spent.

    Raises:
        RuntimeError: the script ended before that, with the last of what it wrote.
    """
    ranges = {
        name: {"low": one.low, "high": one.high, "log": one.log, "integer": one.integer} for name, one in space.items()
    }
    words = ["uv", "run", "--quiet", "--script", str(SCRIPTS / script)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", cwd=SCRIPTS
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # To leave ``process`` closes the pipes, which ends the script; a broken one is a script that ended by itself.
        with suppress(BrokenPipeError), process:
            _write(process.stdin, {"space": ranges, "default": default, "epochs": epochs, "seed": seed})
            hello = process.stdout.readline()
            for line in process.stdout:
                request = json.loads(line)
                found = values(request["params"], request["epochs"])
                if found is None:
                    return str(json.loads(hello)["version"])
                _write(process.stdin, list(found))
        errors.seek(0)
        said = errors.read().decode("utf-8", errors="replace")[-LAST_CHARACTERS:]
        raise RuntimeError(f"{script} ended with status {process.returncode}\n{said}")


def _write(pipe: IO[str], what: Any) -> None:
    pipe.write(json.dumps(what) + "\n")
    pipe.flush()
