"""Choosing heads, keeping the choice, and patches that are blanked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from attention.heads import HeadSelection, HeadStats, select_heads
from attention.visual import mask_patches
from grounding.errors import UsageError

LAYERS = (3, 5)


def means() -> dict[str, torch.Tensor]:
    return {
        "distance": torch.tensor([[1.0, 9.0, 5.0], [2.0, 8.0, 4.0]]),
        "response_distance": torch.tensor([[9.0, 1.0, 5.0], [2.0, 8.0, 4.0]]),
        "image_mass": torch.tensor([[0.1, 0.2, 0.9], [0.3, 0.4, 0.5]]),
        "kurtosis": torch.tensor([[math.nan, 1.0, 2.0], [math.nan, math.nan, math.nan]]),
    }


def test_heads_are_chosen_over_all_captured_layers() -> None:
    found = select_heads(means(), LAYERS, share=0.34, image_share=0.34)
    assert found.roles["local"] == ((3, 0), (5, 0))
    assert found.roles["global"] == ((3, 1), (5, 1))
    assert found.roles["image"] == ((3, 2), (5, 2))
    assert found.roles["receiver"] == ((3, 1), (3, 2))  # never those without a measure
    assert found.of("global", 5) == [1] and found.of("global", 4) == [] and found.count("global") == 2


def test_distance_over_response_keys_chooses_others() -> None:
    found = select_heads(means(), LAYERS, share=0.34, keys="response")
    assert found.roles["local"] == ((3, 1), (5, 0))
    assert found.roles["global"] == ((3, 0), (5, 1))


def test_there_is_always_one_head() -> None:
    found = select_heads(means(), LAYERS, share=0.01, image_share=0.01)
    assert [len(heads) for heads in found.roles.values()] == [1, 1, 1, 1]


def test_running_means_leave_out_what_is_not_measured() -> None:
    stats = HeadStats(LAYERS, 2)
    stats.add("distance", 3, torch.tensor([[1.0, 2.0], [3.0, math.nan]]))
    stats.add("distance", 3, torch.tensor([[5.0, math.inf]]))
    found = stats.means()["distance"]
    assert found[0].tolist() == [3.0, 2.0]
    assert found[1].isnan().all()


def test_a_selection_survives_its_file(tmp_path: Path) -> None:
    found = select_heads(means(), LAYERS)
    found.save(tmp_path / "deep" / "heads.json")
    back = HeadSelection.load(tmp_path / "deep" / "heads.json", LAYERS, 3)
    assert back.roles == found.roles
    assert back.stats["distance"] == found.stats["distance"]
    assert math.isnan(back.stats["kurtosis"][3][0])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["heads.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "no selection of heads"), ("[]", "no selection"), ('{"schema": 2}', "schema version 2")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(UsageError, match=f"heads.json: .*{message}"):
        HeadSelection.load(tmp_path / "heads.json", LAYERS, 3)


def test_a_selection_of_another_model_is_refused(tmp_path: Path) -> None:
    select_heads(means(), LAYERS).save(tmp_path / "heads.json")
    with pytest.raises(UsageError, match=r"of layer 5 is not among the captured layers \[3, 4\]"):
        HeadSelection.load(tmp_path / "heads.json", (3, 4), 3)
    with pytest.raises(UsageError, match="of 1 heads"):
        HeadSelection.load(tmp_path / "heads.json", LAYERS, 1)


def test_half_of_each_image_s_cells_are_blanked() -> None:
    grids = torch.tensor([[1, 4, 4], [2, 2, 2]])
    pixels = torch.ones(16 + 8, 3)
    found = mask_patches(pixels, grids, 0.5, 2, torch.Generator().manual_seed(0))
    blank = (found == 0).all(-1)
    assert blank[:16].sum() == 8 and blank[16:].sum() == 4
    cells = blank.reshape(-1, 4)  # the four patches of a cell follow each other
    assert (cells.all(-1) | ~cells.any(-1)).all()
    assert pixels.min() == 1  # the input is left alone
    again = mask_patches(pixels, grids, 0.5, 2, torch.Generator().manual_seed(1))
    assert not torch.equal(found, again)
    assert torch.equal(mask_patches(pixels, grids, 0.0, 2, torch.Generator()), pixels)


def test_plain_images_are_blanked_in_squares_of_14_pixels() -> None:
    pixels = torch.ones(2, 3, 30, 20)
    found = mask_patches(pixels, None, 0.5, 1, torch.Generator().manual_seed(3))
    assert found.shape == pixels.shape
    cell = found[0, :, :14, :14]
    assert (cell == cell[0, 0, 0]).all()
    assert 0 < found.mean() < 1


@pytest.mark.parametrize(("share", "shape"), [(1.5, (4, 3)), (-0.1, (4, 3)), (0.5, (4, 3))])
def test_what_cannot_be_blanked_is_refused(share: float, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="credit"):
        mask_patches(torch.ones(shape), None, share, 1, torch.Generator())
