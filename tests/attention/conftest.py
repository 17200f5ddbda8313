"""Very small random Qwen3-VL and Qwen2.5-VL, and a batch with images and left padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

IMAGE, VISION_START, VISION_END, VIDEO = 60, 61, 62, 63
VOCABULARY = 64


def qwen3(layers: int = 4) -> Any:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **_special()))


def qwen2_5(layers: int = 4) -> Any:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_special()))


def _special() -> dict[str, int]:
    return {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }


@dataclass
class Scene:
    """Two responses as TRL hands them over, and the arguments of the model's forward pass over them.

    The first has two images and no padding; the second one image, left padding, and a shorter response.
    """

    inputs: dict[str, Any]
    forward: dict[str, Tensor]

    @property
    def prompt(self) -> int:
        return self.inputs["prompt_ids"].shape[1]


def make_scene(seed: int = 0, length: int = 14, short: int = 9) -> Scene:
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> list[int]:
        return torch.randint(1, 50, (count,), generator=generator).tolist()

    def image(tokens: int) -> list[int]:
        return [VISION_START, *[IMAGE] * tokens, VISION_END]

    first = [*words(2), *image(6), *words(1), *image(4), *words(3)]
    second = [*words(1), *image(4), *words(4)]
    width = max(len(first), len(second))
    prompts = torch.tensor([[0] * (width - len(row)) + row for row in (first, second)])
    prompt_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in (first, second)])
    completions = torch.tensor([words(length), words(short) + [0] * (length - short)])
    completion_mask = torch.tensor([[1] * length, [1] * short + [0] * (length - short)])
    grids = torch.tensor([[1, 4, 6], [1, 4, 4], [1, 4, 4]])
    pixels = torch.randn(int(grids.prod(-1).sum()), 3 * 4 * 4, generator=generator)
    ids = torch.cat([prompts, completions], 1)
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": completion_mask,
        "pixel_values": pixels,
        "image_grid_thw": grids,
        "num_images": [2, 1],
    }
    forward = {
        "input_ids": ids,
        "attention_mask": torch.cat([prompt_mask, completion_mask], 1),
        "pixel_values": pixels,
        "image_grid_thw": grids,
        "mm_token_type_ids": (ids == IMAGE).long(),
    }
    return Scene(inputs, forward)


def alone(scene: Scene, index: int) -> Scene:
    """One response of a scene, without padding."""
    keep = scene.forward["attention_mask"][index].bool()
    images = slice(0, 2) if index == 0 else slice(2, 3)
    grids = scene.forward["image_grid_thw"]
    patches = grids.prod(-1)
    start = int(patches[: images.start].sum())
    pixels = scene.forward["pixel_values"][start : start + int(patches[images].sum())]
    forward = {
        name: scene.forward[name][index : index + 1, keep]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    forward |= {"pixel_values": pixels, "image_grid_thw": grids[images]}
    inputs = {
        "pixel_values": pixels,
        "image_grid_thw": grids[images],
        "num_images": [images.stop - images.start],
    }
    for name in ("prompt", "completion"):
        kept = scene.inputs[f"{name}_mask"][index].bool()
        for kind in ("ids", "mask"):
            inputs[f"{name}_{kind}"] = scene.inputs[f"{name}_{kind}"][index : index + 1, kept]
    return Scene(inputs, forward)


@pytest.fixture
def scene() -> Scene:
    return make_scene()


@pytest.fixture
def alone_scenes() -> list[Scene]:
    """The responses of `scene`, each without padding."""
    return [alone(make_scene(), index) for index in range(2)]


@pytest.fixture(params=[qwen3, qwen2_5], ids=["qwen3_vl", "qwen2_5_vl"])
def build(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes the same tiny model with random weights each time."""

    def make(layers: int = 4, dtype: torch.dtype = torch.float64) -> Any:
        torch.manual_seed(0)
        model = request.param(layers).to(dtype)
        for name, weights in model.named_parameters():  # attention that is anything but flat
            if "q_proj.weight" in name or "k_proj.weight" in name:
                weights.data.mul_(12.0)
        return model

    return make


@pytest.fixture
def eager_maps() -> Callable[..., dict[int, Tensor]]:
    """Full attention maps (B, H, N, N) by layer, from transformers' eager attention.

    In float64 it has no numbers for the rows of padding, and spreads that: only for scenes without padding.
    """

    def run(model: Any, scene: Scene) -> dict[int, Tensor]:
        model.set_attn_implementation("eager")
        dtype = next(model.parameters()).dtype
        forward = {**scene.forward, "pixel_values": scene.forward["pixel_values"].to(dtype)}
        with torch.no_grad():
            maps = model(**forward, output_attentions=True).attentions
        return dict(enumerate(maps))

    return run
