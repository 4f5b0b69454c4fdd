"""The committed openapi.json, by the TypeScript client that is made of it: its types, and itself against a server.

Once before: ``npm install --prefix clients/typescript``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving import TOKEN, Client, jpeg

CLIENT = Path(__file__).parents[3] / "clients" / "typescript"
NPM = shutil.which("npm")
IN_CI = "CI" in os.environ  # there, what is missing is a fault

pytestmark = [
    pytest.mark.skipif(NPM is None and not IN_CI, reason="needs Node 20 and npm"),
    pytest.mark.skipif(
        not (CLIENT / "node_modules").is_dir() and not IN_CI, reason="needs: npm install --prefix clients/typescript"
    ),
]


def npm(*words: str, **environment: str) -> None:
    assert NPM is not None
    done = subprocess.run(
        [NPM, *words],
        cwd=CLIENT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_client_works_with_a_running_server(client: Client, tmp_path: Path) -> None:
    npm("run", "build")
    photograph = tmp_path / "part.jpg"
    photograph.write_bytes(jpeg(1))
    npm(
        "test",
        VQC_SERVER_URL=f"http://{client.address}",
        VQC_SERVE_TOKEN=TOKEN,
        VQC_PHOTOGRAPH=str(photograph),
    )
