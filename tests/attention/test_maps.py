"""Maps for rewards on attention: equal to full eager maps, however the batch is padded and split."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attention.reading import ResponseBatch
from attention.rollout import RolloutAttention
from attention.specification import MapConfig
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.errors import FoveaError, UsageError
from tests.attention.conftest import IMAGE
from tests.recipes.tiny import tokenizer


class Processor:
    """As much of a processor as the maps look at."""

    eos_token_id = pad_token_id = bos_token_id = None

    class image_processor:
        merge_size = 2


def run(model: Any, scene: Any) -> None:
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        model(**{**scene.forward, "pixel_values": scene.forward["pixel_values"].to(dtype)})


def look_at(maps: RolloutAttention, model: Any, scene: Any, weights: torch.Tensor) -> Any:
    with maps.reader.reading(batch_of(scene, weights)) as look:
        run(model, scene)
    return look


def batch_of(scene: Any, weights: torch.Tensor) -> ResponseBatch:
    ids, valid = scene.forward["input_ids"], scene.forward["attention_mask"]
    return ResponseBatch.of(ids, valid, scene.inputs["completion_mask"], IMAGE, weights=weights)


def some_weights(scene: Any) -> torch.Tensor:
    """Rows of different weight, some of none, in each response."""
    mask = scene.inputs["completion_mask"]
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    weights[:, 2:4] = 0.0
    return weights


def test_grids_equal_full_maps(build: Any, scene: Any, alone_scenes: Any, eager_maps: Any) -> None:
    """Left padding, grouped heads, two images in the first prompt; float64 maps of each response alone."""
    model = build()
    maps = RolloutAttention({"rows": "response", "sink_ratio": 1e9}, model, Processor())
    weights = some_weights(scene)
    for _ in range(2):  # heads chosen from this very batch, then known
        look = look_at(maps, model, scene, weights)
        heads = maps.reader.heads.roles["image"]
        for wanted, shapes in (([0, 0], [(2, 3), (2, 2)]), ([1, 0], [(2, 2), (2, 2)])):
            found = maps.grids(look, scene.inputs["image_grid_thw"], [2, 1], wanted, ["a", "b"])
            for index, single in enumerate(alone_scenes):
                full = eager_maps(build(), single)
                first, length = single.prompt, single.inputs["completion_ids"].shape[1]
                rows = torch.stack([full[layer][0, head, first - 1 : -1] for layer, head in heads]).mean(0)
                at = (single.forward["input_ids"][0] == IMAGE).nonzero().squeeze(-1)
                expected = weights[index, :length].double() @ rows[:, at]
                begin = 6 if wanted[index] else 0
                grid, sinks = found[index]
                assert grid.shape == shapes[index] and not sinks.any()
                expected = expected[begin : begin + grid.size].reshape(grid.shape)
                torch.testing.assert_close(torch.from_numpy(grid), expected, rtol=1e-5, atol=1e-12)
    assert len(heads) == round(0.2 * 4 * len(maps.reader.layers))


def test_image_heads_are_those_with_most_mass(build: Any, alone_scenes: Any, eager_maps: Any) -> None:
    model, single = build(), alone_scenes[0]
    maps = RolloutAttention({"rows": "response", "layers": [0, 2]}, model, Processor())
    look_at(maps, model, single, some_weights(single))
    full = eager_maps(build(), single)
    image = (single.forward["input_ids"][0] == IMAGE).double()
    mass = {
        (layer, head): float((full[layer][0, head, single.prompt - 1 : -1] @ image).mean())
        for layer in (0, 2)
        for head in range(4)
    }
    assert set(maps.reader.heads.roles["image"]) == set(sorted(mass, key=mass.get)[-2:])


def test_splitting_the_batch_does_not_matter(build: Any, scene: Any) -> None:
    model, weights = build(), some_weights(scene)
    maps = RolloutAttention({"rows": "response", "sink_ratio": 1.01}, model, Processor())
    whole = look_at(maps, model, scene, weights)
    patches = scene.inputs["image_grid_thw"].prod(-1).cumsum(0).tolist()
    forward = scene.forward
    for fresh in (False, True):
        maps = RolloutAttention(maps.config, model, Processor()) if fresh else maps
        with maps.reader.reading(batch_of(scene, weights)) as look:
            for index, images in enumerate((slice(0, 2), slice(2, 3))):
                pixels = slice(0, patches[1]) if index == 0 else slice(patches[1], patches[2])
                part = {name: values[index : index + 1] for name, values in forward.items() if values.dim() == 2}
                part |= {
                    "pixel_values": forward["pixel_values"][pixels].double(),
                    "image_grid_thw": forward["image_grid_thw"][images],
                }
                with torch.no_grad():
                    model(**part)
        torch.testing.assert_close(look.map(), whole.map())
        assert torch.equal(look.sinks(), whole.sinks())
    assert whole.sinks().any() and not whole.sinks().all()


def test_the_last_prompt_token_looks_for_a_query_without_response(
    build: Any, alone_scenes: Any, eager_maps: Any
) -> None:
    model, single = build(), alone_scenes[1]
    maps = RolloutAttention({"rows": "response"}, model, Processor())
    ids, valid = single.forward["input_ids"], single.forward["attention_mask"]
    with pytest.raises(RuntimeError, match="heads are chosen on responses"), maps.reading_prompts(ids, valid):
        run(model, single)
    look_at(maps, model, single, some_weights(single))
    with maps.reading_prompts(ids, valid) as look:
        run(model, single)
    full = eager_maps(build(), single)
    expected = torch.stack([full[layer][0, head, -1] for layer, head in maps.reader.heads.roles["image"]]).mean(0)
    torch.testing.assert_close(look.map()[0], expected[ids[0] == IMAGE], rtol=1e-5, atol=1e-12)
    assert not look.wants_sinks


def test_padding_with_nan_and_rows_nobody_wants_leave_no_trace(build: Any, scene: Any) -> None:
    """An answer that cannot be read has an empty map, which a reward takes for no attention at all."""
    model, weights = build(), some_weights(scene)
    weights[1] = 0.0
    maps = RolloutAttention({"rows": "response"}, model, Processor())
    look = look_at(maps, model, scene, weights)
    assert (look.map()[1] == 0).all() and (look.map()[0] > 0).any() and look.map().isfinite().all()
    assert (look_at(maps, model, scene, torch.zeros_like(weights)).map() == 0).all()


def test_a_row_s_tokens_are_found_in_its_text(build: Any) -> None:
    words, dialect = tokenizer(), get_dialect("qwen3_vl")

    class WithTokenizer(Processor):
        tokenizer = words

    text = '<think>The red square is there.</think>{"bbox_2d": [4, 5, 6, 7]}'
    ids = words(text, add_special_tokens=False)["input_ids"]
    rows = torch.tensor([[*ids, 0], [0, *ids]])
    mask = torch.tensor([[1] * len(ids) + [0], [0] + [1] * len(ids)])
    sizes = [[ImageSize(96, 96)]] * 2
    for wanted, holds, holds_not in (("answer", "4567", "square"), ("thought", "red square", "bbox_2d")):
        maps = RolloutAttention({"rows": wanted}, build(), WithTokenizer(), dialect)
        weights = maps.row_weights(rows, mask, sizes)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2))
        torch.testing.assert_close(weights[0, :-1], weights[1, 1:])
        said = words.decode(rows[0][weights[0] > 0]).replace(" ", "")
        assert holds.replace(" ", "") in said and holds_not not in said
    unread = maps.row_weights(rows[:, :5], mask[:, :5], sizes)
    assert (unread == 0).all()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"row": "answer"}, "attention: unknown key 'row'; did you mean 'rows'"),
        ({"rows": "coordinates"}, "attention.rows is 'coordinates'"),
        ({"layers": "top"}, "attention.layers is 'top'"),
        ({"image_share": 0}, "attention.image_share is 0"),
        ({"sink_ratio": 1}, "sink_ratio"),
        ({"query": " "}, "attention.query is empty"),
    ],
)
def test_a_recipe_s_mistakes_are_named(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MapConfig.from_mapping(mapping)


def test_a_model_that_cannot_show_its_attention_is_refused(build: Any) -> None:
    with pytest.raises(UsageError, match=r"attention\.layers: 9 is outside the model, which has layers 0 to 3"):
        RolloutAttention({"rows": "response", "layers": [9]}, build(), Processor())
    with pytest.raises(UsageError, match=r"attention\.rows: 'answer' reads the text and needs the dialect"):
        RolloutAttention({}, build(), Processor())
    with pytest.raises(UsageError, match="has no image tokens"):
        RolloutAttention({"rows": "response"}, build().model.language_model, Processor())


def test_a_prompt_that_was_cut_off_is_named(build: Any, scene: Any) -> None:
    model = build()
    maps = RolloutAttention({"rows": "response"}, model, Processor())
    look = look_at(maps, model, scene, some_weights(scene))
    with pytest.raises(FoveaError, match="sample 'b' holds 4 image tokens, its images have 8 cells"):
        grids = torch.tensor([[1, 4, 6], [1, 4, 4], [1, 4, 8]])
        maps.grids(look, grids, [2, 1], [0, 0], ["a", "b"])
