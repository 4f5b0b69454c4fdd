"""How many photographs of one part ``vqc.data.duplicates`` finds, and how often it is wrong: a table in Markdown.

    python tests/benchmarks/twins.py --data DIR [--images N] [--turned] [--seed N]

Each photograph of DIR gets 0 to 3 twins of the kinds below. Every two photographs of DIR itself are of different parts,
so all that is found among them counts as wrong. ``--turned`` adds the seven mirror images and quarter turns of each
photograph as further parts, to measure the time for many; twins are left out then.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vqc.data.dataset import load_data, read_image, read_split
from vqc.data.duplicates import look_alikes
from vqc.data.findings import Report

Pixels = NDArray[np.uint8]


def crop(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    down, right = (rng.uniform(0, 0.1, 2) * (height, width)).astype(int)
    return pixels[down : down + int(0.9 * height), right : right + int(0.9 * width)]


def turn(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """By 2 degrees; what no camera saw is black or mirrored."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.choice([-2, 2])), 1.0)
    border = int(rng.choice([cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT]))
    return np.asarray(cv2.warpAffine(pixels, matrix, (width, height), borderMode=border), np.uint8)


def lighter(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.clip(pixels * 1.1, 0, 255).astype(np.uint8)


def shift(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    down, right = rng.choice([-3, 3], 2)
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(pixels, matrix, pixels.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def saved_again(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return pixels


def all_of_them(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return lighter(crop(turn(pixels, rng), rng), rng)


# kind -> how it is made, and the JPEG quality of its file
KINDS: dict[str, tuple[Callable[[Pixels, np.random.Generator], Pixels], int]] = {
    "crop 90 %": (crop, 95),
    "JPEG 60": (saved_again, 60),
    "turned by 2 degrees": (turn, 95),
    "10 % lighter": (lighter, 95),
    "shifted by 3 px": (shift, 95),
    "turned, cropped, lighter, JPEG 60": (all_of_them, 60),
}
LAST = "turned, cropped, lighter, JPEG 60"  # beside the others, for every tenth photograph


def pictures(
    data: Path, most: int | None, rng: np.random.Generator, *, turned: bool
) -> Iterator[tuple[str, Pixels, int]]:
    """File name, pixels [h, w, 3] and JPEG quality of all photographs; names are <part>-<kind>.jpg."""
    records = [record for split in load_data(data).splits for record in split.images]
    singles = [kind for kind in KINDS if kind != LAST]
    for part, record in enumerate(records[:most]):
        pixels = read_image(record)
        if turned:
            for quarter in range(8):
                view = np.rot90(pixels[:, ::-1] if quarter >= 4 else pixels, quarter)
                yield f"{8 * part + quarter}-original.jpg", np.ascontiguousarray(view), 95
            continue
        yield f"{part}-original.jpg", pixels, 95
        kinds = [*rng.choice(singles, rng.integers(0, 4), replace=False), *([LAST] if part % 10 == 0 else [])]
        for kind in kinds:
            make, quality = KINDS[kind]
            yield f"{part}-{kind}.jpg", make(pixels, rng), quality


def write(folder: Path, some: Iterator[tuple[str, Pixels, int]]) -> None:
    (folder / "images").mkdir()
    entries = []
    for number, (name, pixels, quality) in enumerate(some):
        cv2.imwrite(str(folder / "images" / name), pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        entries.append({"id": number, "file_name": name, "width": pixels.shape[1], "height": pixels.shape[0]})
    document = {"categories": [{"id": 1, "name": "defect"}], "images": entries, "annotations": []}
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--turned", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), pictures(args.data, args.images, np.random.default_rng(args.seed), turned=args.turned))
        started_s = time.perf_counter()
        read = read_split(Path(folder), "", Report())
        assert read is not None
        photos, read_s = read[1], time.perf_counter() - started_s
        found = look_alikes(photos)
        search_s = time.perf_counter() - started_s - read_s
    names = [(one.image.file_name, other.image.file_name) for one, other, _ in found]
    wrong = [pair for pair in names if pair[0].split("-")[0] != pair[1].split("-")[0]]
    pairs = {frozenset(pair) for pair in names}
    print(f"{len(photos):,} photographs: {read_s:.0f} s to read them, {search_s:.0f} s to compare them\n")
    print(
        f"{len(found):,} pairs found, {len(wrong):,} of different parts: "
        f"precision {1 - len(wrong) / max(len(found), 1):.4f}"
    )
    for pair in wrong[:20]:
        print("  ", *pair)
    print("\n| twin | photographs | found beside the original |\n|---|---|---|")
    total = hits = 0
    for kind in KINDS:
        twins = [name for photo in photos if (name := photo.image.file_name).endswith(f"-{kind}.jpg")]
        known = sum(frozenset((name, f"{name.split('-')[0]}-original.jpg")) in pairs for name in twins)
        total, hits = total + len(twins) * (kind != LAST), hits + known * (kind != LAST)
        print(f"| {kind} | {len(twins):,} | {known / max(len(twins), 1):.1%} |")
    print(f"| all but the last | {total:,} | {hits / max(total, 1):.1%} |")


if __name__ == "__main__":
    main()
