"""Tiles as a searched value: whether they are worth trying on the data, and how many views they make of it.

Pure functions of the settings and of sizes; no picture is read.
"""

from __future__ import annotations

from tune.settings import Dimension, SearchSettings
from vqc.data.dataset import Data
from vqc.data.defect_size import DetectorInput, sizes_at
from vqc.data.tiles.training_views import all_views, tile_plan, training_views
from vqc.models.registry import detector_input

TILES = "tile_px"
SMALL_PX = 32.0  # of COCO's small objects; tiles found more of defects of 22 px than any whole photograph did (LOG.md)


def searched_tiles(settings: SearchSettings) -> list[int]:
    """Sides of the tiles that are tried, in pixels of the photograph, rising; 0: whole photographs."""
    dimension = settings.space.get(TILES)
    values = () if dimension is None else dimension.samples()
    return sorted({settings.train.tile_px, *(int(value) for value in values)})


def detector_inputs(settings: SearchSettings) -> list[DetectorInput]:
    """What detectors of the search see: at each image size the default's view, then at its size the other tiles."""
    default = detector_input(settings.train)
    sizes = [(px, px) for px in settings.image_sizes()] if "image_size" in settings.space else [default.size]
    others = [px for px in searched_tiles(settings) if px != default.tile_px]
    return [
        *(default.model_copy(update={"size": size}) for size in sizes),
        *(default.model_copy(update={TILES: px}) for px in others),
    ]


def with_useful_tiles(settings: SearchSettings, data: Data) -> tuple[SearchSettings, str]:
    """The settings without tiles where whole photographs lose nothing, and a sentence that says so.

    They lose nothing where half of the defects are not small even at the largest image size, or where they are not
    reduced. Tiles as large as the photographs are left out too.
    """
    dimension = settings.space.get(TILES)
    if dimension is None or settings.train.tile_px or len(settings.space) == 1:
        return settings, ""
    longest_px = max(max(image.width, image.height) for image in data.train.images)
    useful = [px for px in dimension.choices or () if isinstance(px, int) and px < longest_px]
    largest = max(detector_inputs(settings), key=lambda one: (not one.tile_px, min(one.size)))
    whole, native = sizes_at(data.defects, largest), sizes_at(data.defects, None)
    if whole.sides_px[1] >= SMALL_PX:
        why = "show the defects large enough"
    elif whole.sides_px[1] >= native.sides_px[1]:
        why = "are not reduced"
    elif dimension.choices is not None and not any(useful):
        why = f"are no larger than a tile ({longest_px} px)"
    elif dimension.choices is None or len(useful) == len(dimension.choices):
        return settings, ""
    else:
        return _with_space(
            settings, {**settings.space, TILES: dimension.model_copy(update={"choices": tuple(useful)})}
        ), ""
    rest = {name: one for name, one in settings.space.items() if name != TILES}
    return _with_space(settings, rest), f"Tiles are not tried: whole photographs at {largest} {why}."


def _with_space(settings: SearchSettings, space: dict[str, Dimension]) -> SearchSettings:
    points = tuple({name: value for name, value in one.items() if name in space} for one in settings.initial_points)
    return settings.model_copy(update={"space": space, "initial_points": points})


def view_counts(settings: SearchSettings, data: Data) -> dict[str, tuple[int, int]]:
    """Side of a tile, as text -> views of an epoch of training, and of val; "0": photographs."""
    found = {}
    for tile_px in searched_tiles(settings):
        config = settings.train.model_copy(update={TILES: tile_px})
        plan = tile_plan(config, data)
        trained = training_views(data.train, config.image_size, plan).an_epoch
        found[str(tile_px)] = trained, len(all_views(data.val, config.image_size, plan).views)
    return found
