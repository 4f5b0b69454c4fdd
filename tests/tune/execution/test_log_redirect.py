"""What libraries print goes to the log, whatever they print with; the terminal stays the search's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune.execution.log_redirect import quiet_environment

SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from tune.execution.log_redirect import library_noise_to
print("before")
with library_noise_to(Path(sys.argv[1])) as terminal:
    print("printed")
    os.write(2, b"written\\n")
    subprocess.run([sys.executable, "-c", "print('of a child')"])
    terminal.write("to the user\\n")
print("after")
"""


@pytest.mark.parametrize(("cluster", "decided"), [(False, "0"), (True, None)])
def test_ray_listens_to_others_only_in_a_cluster(
    cluster: bool, decided: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    quiet_environment(cluster=cluster)
    assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == decided


def test_only_the_searchs_own_words_reach_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "search.log"
    said = subprocess.run([sys.executable, "-c", SCRIPT, str(log)], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n") == ["before", "to the user", "after", ""]
    assert said.stderr == ""
    assert set(log.read_text(encoding="utf-8").split("\n")) == {"printed", "written", "of a child", ""}


def test_the_terminal_is_given_back_when_the_search_breaks(tmp_path: Path) -> None:
    broken = SCRIPT.replace('terminal.write("to the user\\n")', "raise SystemExit('broken')")
    said = subprocess.run(
        [sys.executable, "-c", broken, str(tmp_path / "log")], capture_output=True, text=True, check=False
    )
    assert said.stderr == "broken\n"


def test_a_terminal_that_has_closed_does_not_end_the_search(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    talking = SCRIPT.replace('print("before")', "").replace('print("after")', "raise SystemExit(7)")
    said = subprocess.run([sys.executable, "-c", talking, str(tmp_path / "log")], stdout=writing, check=False)
    os.close(writing)
    assert said.returncode == 7
