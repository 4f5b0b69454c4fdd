"""``vqc serve``: the inspection server, with its page for the person at the line."""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

TOKEN = "VQC_SERVE_TOKEN"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE",
        help="folder of a promoted detector (the one served last, else the champion's in results/promoted)",
    )  # fmt: skip
    parser.add_argument("--host", metavar="ADDRESS", help="address to listen at (127.0.0.1); others need a token")
    parser.add_argument("--port", type=int, metavar="N", help="port to listen at (8000); 0: any that is free")
    parser.add_argument("--token", metavar="TEXT", help=f"who knows it may call (the environment's {TOKEN})")
    parser.add_argument(
        "--allow-host", dest="allowed_hosts", action="append", metavar="NAME", help="a name the server is reached under"
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="folder of the history (results/serving)")
    parser.add_argument("--watch", type=Path, metavar="DIR", help="inspect the photographs that appear in this folder")
    parser.add_argument("--threads", type=int, metavar="N", help="of the detector (one less than there are cores)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON with these settings and the finer ones")


def run(args: argparse.Namespace) -> int:
    import logging

    from vqc.serving.app import InspectionServer

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    settings = settings_of(args)

    def on_start(url: str) -> None:
        print(f"Serving at {url}  (Ctrl-C ends it)", flush=True)

    InspectionServer(settings, on_start=on_start).run()
    return 0


def settings_of(args: argparse.Namespace) -> Any:
    """The settings of the file, with the flags that were given in their place.

    Raises:
        ConfigError: all mistakes of both.
    """
    from vqc.config import parse_record, read_json
    from vqc.serving.settings import ServingSettings

    given = {
        name: getattr(args, name) for name in ServingSettings.model_fields if getattr(args, name, None) is not None
    }
    given.setdefault("token", os.environ.get(TOKEN) or None)
    values = {**(read_json(args.config) if args.config else {}), **{k: v for k, v in given.items() if v is not None}}
    return parse_record(ServingSettings, values, source=str(args.config) if args.config else "vqc serve")
