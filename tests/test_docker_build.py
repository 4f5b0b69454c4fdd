"""The server's image is built and started, without a daemon and without a registry of images.

By hand, as root on Debian, in less than ten minutes: ``apt-get install buildah debootstrap``, then
``pytest -m slow tests/test_docker_build.py``. debootstrap stands in for the base image, less what Debian's slim images
leave out too, and a chroot for the container: with a read-only root and without capabilities, as compose.yaml wants it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import TOKEN, Client, jpeg, write_bundle

ROOT = Path(__file__).parent.parent
SUITE = "trixie"
MOST_MB = 480
OWN_AUTHORITIES = Path("/usr/local/share/ca-certificates")  # of a network that has its own
PORT = 8000  # the image's
START = """
mount --bind "$ROOT" "$ROOT"; mount -o remount,bind,ro "$ROOT"
mount -t tmpfs tmpfs "$ROOT/tmp"; mount -t proc proc "$ROOT/proc"; mount --rbind /dev "$ROOT/dev"
mount --bind "$HOME_OF_TEST/promoted" "$ROOT/vqc/results/promoted"
mount -o remount,bind,ro "$ROOT/vqc/results/promoted"
mount --bind "$HOME_OF_TEST/serving" "$ROOT/vqc/results/serving"
exec chroot "$ROOT" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all env --chdir /vqc -i "$@"
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("buildah") and shutil.which("debootstrap") and getattr(os, "geteuid", lambda: 1)() == 0),
        reason="needs root, buildah and debootstrap",
    ),
]


class Builder:
    """buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(
            ["buildah", "--root", self.folder / "storage", "--runroot", self.folder / "run", *words],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=True,
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """With the image "vqc-serve"."""
    folder = tmp_path_factory.mktemp("images")
    base = folder / "base"
    subprocess.run(["debootstrap", "--variant=minbase", SUITE, base], check=True, stdout=subprocess.DEVNULL)
    for left_out in (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "var/cache/apt/archives",
        "var/lib/apt/lists",
    ):
        shutil.rmtree(base / left_out, ignore_errors=True)
        (base / left_out).mkdir()
    if OWN_AUTHORITIES.is_dir():
        shutil.copytree(OWN_AUTHORITIES, base / OWN_AUTHORITIES.relative_to("/"), dirs_exist_ok=True)
    build = Builder(folder)
    (folder / "Basefile").write_text("FROM scratch\nCOPY base /\n", encoding="utf-8")
    build("bud", "--quiet", "--file", folder / "Basefile", "--tag", "localhost/base", folder)
    build("bud", "--quiet", "--format", "docker", "--build-arg", "BASE=localhost/base", "--target", "serve",
          "--tag", "localhost/vqc-serve", ROOT)  # fmt: skip
    yield build
    build("rm", "--all")
    build("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def image(builder: Builder) -> dict[str, Any]:
    """What the image says of itself."""
    return dict(json.loads(builder("inspect", "--type", "image", "localhost/vqc-serve"))["Docker"]["config"])


def test_the_image_is_small(builder: Builder) -> None:
    (found,) = json.loads(builder("images", "--json", "localhost/vqc-serve"))
    size, unit = found["size"].split()
    assert unit == "MB"
    assert float(size) <= MOST_MB


def test_it_serves_with_a_read_only_root_and_no_rights(builder: Builder, image: dict[str, Any], tmp_path: Path) -> None:
    write_bundle(tmp_path / "promoted" / "first")
    (tmp_path / "serving").mkdir()
    os.chown(tmp_path / "serving", 10001, 10001)
    root = builder("mount", builder("from", "localhost/vqc-serve"))
    assert image["User"] == "10001:10001"
    environment = [*image["Env"], f"VQC_SERVE_TOKEN={TOKEN}"]
    command = [*image["Entrypoint"], *image["Cmd"]]
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", START, "sh", *environment, *command],
        env={**os.environ, "ROOT": root, "HOME_OF_TEST": str(tmp_path)},
    ) as server:
        try:
            client = Client(f"http://127.0.0.1:{PORT}/", token=TOKEN)
            health = ["chroot", root, "env", "-i", *image["Env"], *image["Healthcheck"]["Test"][1:]]
            deadline_s = time.monotonic() + 60
            while subprocess.run(health, stderr=subprocess.DEVNULL, check=False).returncode:
                assert server.poll() is None
                assert time.monotonic() < deadline_s
            assert client.inspect(jpeg(1)).status == 201
            assert client.get("/v1/operating-curve").status == 200
        finally:
            server.terminate()
    assert server.returncode in (0, -signal.SIGTERM)
