"""The command line ``vqc COMMAND``: names the commands, loads the one that is asked for, prints its errors.

A command is one entry of ``COMMANDS`` and the module ``vqc.cli.<name>``: ``add_flags(parser)`` declares its flags,
``run(args)`` does the work and returns the exit status. ``vqc --help`` loads nothing but this file and the exceptions.
"""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from vqc.errors import InfeasibleError, UserError

INTERRUPTED = 130


COMMANDS = {
    "calibrate": "Fit scores and the threshold for a stated escape rate, on val.",
    "check": "Tell everything that is wrong with a folder of annotated images.",
    "evaluate": "Measure all that an inspector signs: escape, overkill, AP, latency.",
    "explain": "Show, for each detection, which pixels it depends on.",
    "import": "Read an export of another tool, or COCO in any layout.",
    "models": "List the detectors.",
    "predict": "Judge a folder of photographs: defects, and pass or fail for each.",
    "sample": "Write the generated data set: metal parts with and without defects.",
    "serve": "Serve a promoted detector: photographs in, verdicts out, with a page for the person at the line.",
    "split": "Divide a folder into train, val and test: whole groups, equal shares of every category.",
    "train": "Train one detector; the search does this for many configurations.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 an error the user can correct, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Windows console may lack a letter of a file's name
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser(words).parse_args(words, argparse.Namespace(words=words))
    try:
        return int(args.run(args))
    except (UserError, InfeasibleError) as error:
        print(f"vqc {words[0]}: {error}", file=sys.stderr)
        return UserError.exit_status
    except (RuntimeError, MemoryError) as error:
        from vqc.hardware.memory import is_out_of_memory, out_of_memory_message

        if not is_out_of_memory(error):
            raise
        print(f"vqc {words[0]}: {out_of_memory_message('the detector', error)}", file=sys.stderr)
        return UserError.exit_status
    except KeyboardInterrupt:
        print(f"vqc {words[0]}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as 'head', has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these words: of the commands, only the one they name is loaded."""
    parser = argparse.ArgumentParser(prog="vqc", description="Defect detectors for one small GPU.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, help_ in COMMANDS.items():
        own = commands.add_parser(name, help=help_, description=help_)
        if words and words[0] == name:
            module = importlib.import_module(f"vqc.cli.{name}")
            module.add_flags(own)
            own.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
