"""The reviews of an inspection server -> a folder with ``images/`` and ``annotations.json``.

Only a server on this machine is asked without a token. Nothing that the document says names an address: photographs are
asked for by the id of their inspection, at the server that the user named, and redirects are not followed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vqc.data.annotations import MOST_BYTES
from vqc.data.dataset import data_error, read_split
from vqc.data.findings import Report, shown
from vqc.data.image_io import PICTURE_SUFFIXES
from vqc.errors import ConfigError, DataError
from vqc.files import new_folder, write_json

MOST_IMAGES = 50_000
MOST_IMAGE_BYTES = 2**28
TIMEOUT_S = 30.0
INSPECTION = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_address(source: str) -> bool:
    """Whether this names a server rather than a folder."""
    return source.startswith(("http://", "https://"))


def fetch_reviews(address: str, out: Path, *, token: str | None = None) -> dict[str, Any]:
    """Write a server's reviews into a new folder, which appears only when it is complete.

    Args:
        address: of its ``/v1/reviews.coco.json``.

    Returns:
        The COCO document.

    Raises:
        ConfigError: another machine's address and no token, or no address of reviews.
        DataError: the server cannot be reached or refuses, or what it sends is no COCO file with its photographs.
    """
    _check(address, token)
    fetch = _fetcher(token)
    document = _document(fetch(address, MOST_BYTES), address)
    try:
        with new_folder(out) as draft:
            (draft / "images").mkdir()
            for entry in document["images"]:
                _fetch_image(entry, address, draft / "images", fetch)
            write_json(draft / "annotations.json", document)
            report = Report()
            read_split(draft, "", report)
            if report.errors:
                raise data_error(Path(address), report.findings)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from None
    return document


def _check(address: str, token: str | None) -> None:
    parts = urlsplit(address)
    if not parts.hostname or parts.username is not None or not parts.path.endswith("/v1/reviews.coco.json"):
        expected = "expected one such as http://127.0.0.1:8000/v1/reviews.coco.json"
        raise ConfigError("SOURCE", [f"{expected}, got {shown(address)}"])
    if token is None and not _is_loopback(parts.hostname):
        raise ConfigError(
            "--token", [f"none given, expected the server's, because {parts.hostname} is another machine"]
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _fetcher(token: str | None) -> Callable[[str, int], bytes]:
    """A function from an address and the most bytes to what is there."""
    # No proxy: it would be asked for the loopback of another machine.
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    headers = {"authorization": f"Bearer {token}"} if token else {}

    def fetch(address: str, most_bytes: int) -> bytes:
        try:
            with closing(opener.open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT_S)) as answer:
                content: bytes = answer.read(most_bytes + 1)
        except urllib.error.HTTPError as error:
            error.close()
            hint = "; expected the server's --token" if error.code in (401, 403) else ""
            raise DataError(f"{address}: the server answers {error.code}{hint}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(f"{address}: cannot be fetched: {reason}", command="vqc serve") from None
        if len(content) > most_bytes:
            raise DataError(f"{address}: more than {most_bytes / 2**20:.0f} MB")
        return content

    return fetch


def _document(content: bytes, address: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
        lists = [document[key] for key in ("categories", "images", "annotations")]
        entries = [entry["inspection_id"] for entry in document["images"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        lists, entries = [], []
        document = None
    if document is None or not all(isinstance(one, list) for one in lists):
        raise DataError(f"{address}: not the reviews of vqc serve")
    if not entries:
        raise DataError(f"{address}: nothing was reviewed yet; expected some inspections with a review")
    if len(entries) > MOST_IMAGES:
        raise DataError(f"{address}: more than {MOST_IMAGES:,} photographs")
    return dict(document)


def _fetch_image(entry: dict[str, Any], address: str, folder: Path, fetch: Callable[[str, int], bytes]) -> None:
    """Fetch one photograph, compare it with its hash, and give the entry its file's name."""
    id_, suffix = entry.get("inspection_id"), PurePosixPath(str(entry.get("file_name"))).suffix.lower()
    if not isinstance(id_, str) or not INSPECTION.fullmatch(id_) or suffix not in PICTURE_SUFFIXES:
        raise DataError(f"{address}: not the id of an inspection with the name of a photograph: {shown(id_)}")
    parts = urlsplit(address)
    path = parts.path.removesuffix("reviews.coco.json") + f"inspections/{id_}/image"
    content = fetch(urlunsplit((parts.scheme, parts.netloc, path, "", "")), MOST_IMAGE_BYTES)
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise DataError(f"{address}: the photograph of inspection {id_} is not the one that was reviewed (sha256)")
    entry["file_name"] = f"{id_}{suffix}"
    (folder / entry["file_name"]).write_bytes(content)
