"""Encoding a picture once for all rows that show it: the same values and gradients, and fewer passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from models.loading import load_policy
from models.sharing import first_alike, share_images
from tests.recipes.tiny import DIALECTS, make_model, placeholder

SHOWN = [0, 1, 0, 2, 1, 0]  # which picture each image placeholder of the batch shows; 1 and 2 are of one size


@pytest.fixture(scope="module", params=list(DIALECTS))
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


def picture(index, size):
    pixels = np.random.default_rng(index).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pieces(processor, shown):
    """How many pictures, or tiles of pictures, the model gets."""
    inputs = batch(processor, shown)
    return len(inputs["image_grid_thw"] if "image_grid_thw" in inputs else inputs["pixel_values"])


def batch(processor, shown=SHOWN):
    pictures = [picture(0, (80, 50)), picture(1, (64, 96)), picture(2, (64, 96))]
    rows = [row for row in (shown[:2], shown[2:3], shown[3:]) if row]  # of two, one and three pictures
    return processor(
        images=[[pictures[index] for index in row] for row in rows],
        text=[f"{placeholder(processor) * len(row)}which one is red" for row in rows],
        padding=True,
        return_tensors="pt",
    )


def outcome(model, inputs):
    model.zero_grad()
    logits = model(**inputs).logits
    logits.float().logsumexp(-1).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_values_and_gradients_stay_the_same(folder):
    model, processor = load_policy(folder, dtype=torch.float64)
    inputs = batch(processor)
    logits, gradients = outcome(model, inputs)
    sharing = share_images(model)
    shared_logits, shared_gradients = outcome(model, inputs)
    assert (sharing.images, sharing.encoded) == (pieces(processor, SHOWN), pieces(processor, [0, 1, 2]))
    torch.testing.assert_close(shared_logits, logits, rtol=0, atol=1e-9)
    assert any("visual" in name or "vision_tower" in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_generation_stays_the_same(folder):
    model, processor = load_policy(folder)
    inputs = batch(processor)
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    sharing = share_images(model)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), plain)
    assert sharing.encoded == pieces(processor, [0, 1, 2])


def test_a_batch_of_different_pictures_is_left_alone(folder):
    model, processor = load_policy(folder)
    sharing = share_images(model)
    with torch.no_grad():
        model(**batch(processor, [0, 1, 2]))
    assert sharing.images == sharing.encoded == pieces(processor, [0, 1, 2])


def test_pictures_with_the_same_sum_are_told_apart():
    one = torch.tensor([[1.0, 2.0]])
    assert first_alike((one, one.flip(1), one.clone(), one.flip(1)), [(1, 1, 2)] * 4) == [0, 1, 0, 1]
    assert first_alike((one, one), [(1, 1, 2), (1, 2, 1)]) == [0, 1], "grids differ"
