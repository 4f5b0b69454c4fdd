"""The command line ``vqc COMMAND``. Thin: names the commands, loads the one that is asked for, tells its errors.

A command is one entry of ``COMMANDS`` and one module; ``vqc --help`` loads nothing but this file and the exceptions.
"""
# ruff: noqa: T201 - a command line prints

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from vqc.errors import InfeasibleError, UserError

USER_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, a line of help, and the module with its ``add_flags`` and ``run``.

    ``add_flags(parser)`` declares the flags; ``run(args)`` does the work and returns the exit status.
    """

    name: str
    help: str
    module: str


COMMANDS: tuple[Command, ...] = (
    Command("calibrate", "Fit scores and the threshold for a stated escape rate, on val.", "vqc.cli.calibrate"),
    Command("check", "Tell everything that is wrong with a folder of annotated images.", "vqc.cli.check"),
    Command("evaluate", "Measure all that an inspector signs: escape, overkill, AP, latency.", "vqc.cli.evaluate"),
    Command("explain", "Show, for each detection, which pixels it depends on.", "vqc.cli.explain"),
    Command("models", "List the detectors.", "vqc.cli.models"),
    Command("predict", "Judge a folder of photographs: defects, and pass or fail for each.", "vqc.cli.predict"),
    Command("sample", "Write the generated data set: metal parts with and without defects.", "vqc.cli.sample"),
    Command("train", "Train one detector; the search does this for many configurations.", "vqc.cli.train"),
)


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
        return USER_ERROR
    except (RuntimeError, MemoryError) as error:
        from vqc.hardware.memory import is_out_of_memory, out_of_memory_message

        if not is_out_of_memory(error):
            raise
        print(f"vqc {words[0]}: {out_of_memory_message('the detector', error)}", file=sys.stderr)
        return USER_ERROR
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
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        if words and words[0] == command.name:
            module = importlib.import_module(command.module)
            module.add_flags(own)
            own.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
