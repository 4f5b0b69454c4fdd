"""Files that are damaged at random, and what reading one of them may cost at the most."""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.conftest import Row
from tests.watching import Watch
from vqc.errors import DataError

LINUX = sys.platform == "linux"

# Put in place of any value or byte of a sound file.
FRAGMENTS = (
    "", "null", "NaN", "-Infinity", "1e400", "-1e400", "9" * 5000, "1e-999999999", "0" * 300, "-0", "true", "[]", "{}",
    '""', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\"', "\ufeff", "\x00", "'a'", "/* */", "[" * 3000,
    '{"a":' * 3000, "[[[[[[[[" + "]" * 8, '"' + "x" * 20_000 + '"', '{"id": 1, "id": 2, "id": "1"}', ",", ":", "}", "]",
)  # fmt: skip
NAMES = (
    "../secret.png", "../../secret.png", "../../../secret.png", "..\\..\\..\\secret.png", "a/../../../secret.png",
    "/etc/passwd", "//host/share/a.png", "\\\\host\\share\\a.png", "C:\\a.png", "c:a.png", "C:/a.png",
    "file:///etc/passwd", "~/.ssh/id_rsa", "$HOME/a.png",
    "CON", "nul.png", "COM1", "LPT1.png", "a\0.png", "rgb-1.png\0.jpg", "\ud800.png",
    "rgb-1.png/", "rgb-1.png/.", "./rgb-1.png", ".", "..", "...", " ", "loop", "loop/rgb-1.png",
    "round/round/rgb-1.png",
    "out.png", "a" * 300 + ".png", "d/" * 3000, "\u202egnp.a", "rgb-1.png ", "rgb-1.png.", "rgb-1.png::$DATA",
    "*", "%s",
)  # fmt: skip


TRIES = 3
LEAST_S = 0.1  # less is little on any machine
# A heavy file that is used costs Python's time for every box: 10 to 26, as machines differ in the parser's speed. What
# has to be found costs hundreds, and `growth` finds it on any machine.
MOST_PARSES_USED = 100.0
MOST_GROWTH = 32.0  # eight times the file: work that grows with it costs 8 to 16 times, with its square 64


@dataclass
class Worst:
    """Files that were read and those of them that could be used; the longest time for one, and the most memory.

    Times are of the processor, and are held against what this machine needs, just then, to parse plain JSON: a limit
    in seconds would judge the machine and its other programs. They slow one reading and not the next; so what costs
    too much is read again, and only the cheapest of three readings counts.
    """

    files: int = 0
    used: int = 0
    seconds: float = 0.0
    parses: float = 0.0  # the same in times of ``parse_s``; 0 below ``LEAST_S``
    mb: float = 0.0
    most_parses: float = 8.0
    most_mb: float = 500.0

    def measure(self, read: Callable[[], object], watch: Watch, *allowed: Path) -> str:
        """Read one; nothing but files below ``allowed`` may be opened, and only a sentence, returned, may be raised."""
        watch.opened.clear()
        costs = []
        for _ in range(TRIES):
            said, seconds, mb = _cost(read, watch)
            costs.append((_in_parses(seconds), seconds, mb))
            if costs[-1][0] <= self.most_parses and mb <= self.most_mb:
                break
        parses, seconds, mb = map(min, zip(*costs, strict=True))
        self.seconds, self.parses = max(self.seconds, seconds), max(self.parses, parses)
        self.mb = max(self.mb, mb)
        self.files += 1
        self.used += not said
        assert "Traceback" not in said
        assert len(said) < 20_000
        folders = [
            path.resolve() for path in (*allowed, Path(sys.prefix), Path(sys.base_prefix))
        ]  # and what is imported
        assert [path for path in watch.opened if not any(map(Path(path).resolve().is_relative_to, folders))] == []
        return said

    def record(self, record: Callable[[Row], None], *, fault: str) -> None:
        """Keep the row, and hold all of them to the limits."""
        lost = int(self.parses > self.most_parses) + int(self.mb > self.most_mb)
        record(Row(fault=fault, injected=self.files, lost=lost, again_s=self.seconds))
        assert self.parses <= self.most_parses
        assert self.mb <= self.most_mb


def growth(read: Callable[[int], Callable[[], object]], count: int, watch: Watch) -> float:
    """How many times as much a file of ``count`` entries costs to read as one of an eighth; the cheapest readings.

    No machine changes that, however fast it parses. ``read`` writes a file of so many entries and returns its reading.
    """
    eighths, wholes = [], []
    for _ in range(TRIES):
        eighths.append(_cost(read(count // 8), watch)[1])
        wholes.append(_cost(read(count), watch)[1])
        if min(wholes) <= max(LEAST_S, MOST_GROWTH * min(eighths)):
            break
    return min(wholes) / min(eighths) if min(wholes) > LEAST_S else 0.0


def _cost(read: Callable[[], object], watch: Watch) -> tuple[str, float, float]:
    """What was said, the seconds of the processor and the megabytes of one reading."""
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    said = ""
    gc.freeze()  # what other tests left in this process is not looked through on this one's account
    before_mb, started_s = psutil.Process().memory_info().rss / 2**20, time.process_time()
    watch.on = True
    try:
        read()
    except DataError as error:
        said = str(error)
    finally:
        watch.on = False
        gc.unfreeze()
    return said, time.process_time() - started_s, _peak_mb() - before_mb


def _in_parses(seconds: float) -> float:
    return seconds / parse_s() if seconds > LEAST_S else 0.0


def parse_s() -> float:
    """Seconds of the processor for ten megabytes of numbers in JSON."""
    text = "[" + "20.25," * 1_700_000 + "0]"
    started_s = time.process_time()
    json.loads(text)
    return time.process_time() - started_s


def _peak_mb() -> float:
    if not LINUX:
        return 0.0
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def battered(content: bytes, seed: int, hits: int) -> bytes:
    """A file with bytes changed, cut out, doubled, or replaced by a fragment."""
    draw = random.Random(seed)
    changed = bytearray(content)
    for _ in range(hits):
        at, length = draw.randrange(len(changed) + 1), draw.choice((0, 1, 1, 2, 8, 100))
        put = draw.choice((
            bytes(draw.randrange(256) for _ in range(draw.randrange(1, 5))),
            draw.choice(FRAGMENTS).encode("utf-8", "surrogatepass"),
            bytes(changed[at : at + length]) * 2,
            b"",
        ))  # fmt: skip
        changed[at : at + length] = put
    return bytes(changed)
