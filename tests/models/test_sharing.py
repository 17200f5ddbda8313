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


@pytest.fixture
def frozen(folder):
    """A model whose vision tower is not trained, what shares its pictures, and the same model without."""
    model, processor = load_policy(folder, dtype=torch.float64)
    plain, _ = load_policy(folder, dtype=torch.float64)
    for one in (model, plain):
        for name, weight in one.named_parameters():
            weight.requires_grad_("visual" not in name and "vision_tower" not in name)
    return model, processor, share_images(model), plain


def test_features_of_the_rollouts_serve_the_training_pass(frozen):
    model, processor, sharing, plain = frozen
    inputs = batch(processor)
    with torch.no_grad():
        model(**inputs)
    assert sharing.encoded == pieces(processor, [0, 1, 2])
    for shown in (SHOWN, [2, 1, 0], [1], [0, 1, 2, 0, 0]):
        part, before = batch(processor, shown), sharing.encoded
        logits, gradients = outcome(model, part)
        assert sharing.encoded == before + 1
        true_logits, true_gradients = outcome(plain, part)
        torch.testing.assert_close(logits, true_logits, rtol=0, atol=1e-9)
        assert gradients.keys() == true_gradients.keys()
        for name, gradient in true_gradients.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9)


def tower_of(model):
    return getattr(model.base_model, "visual", None) or model.base_model.vision_tower


def nudge(model, inputs):
    with torch.no_grad():
        for weight in tower_of(model).parameters():
            weight.mul_(1.5)


def replace_weights(model, inputs):
    state = {name: value * 1.5 for name, value in tower_of(model).state_dict().items()}
    tower_of(model).load_state_dict(state)


def change_pixels(model, inputs):
    inputs["pixel_values"].mul_(0.5)


@pytest.mark.parametrize("change", [nudge, replace_weights, change_pixels])
def test_features_are_made_anew_when_weights_or_pixels_change_in_place(frozen, change):
    model, processor, _, plain = frozen
    inputs = batch(processor)
    with torch.no_grad():
        before = model(**inputs).logits
        change(model, inputs)
        if change is not change_pixels:
            change(plain, inputs)
        after = model(**inputs).logits
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, plain(**inputs).logits, rtol=0, atol=1e-9)


def test_nothing_is_kept_of_a_tower_that_is_trained(folder):
    model, processor = load_policy(folder, dtype=torch.float64)
    sharing = share_images(model)
    inputs = batch(processor)
    with torch.no_grad():
        model(**inputs)
    _, gradients = outcome(model, inputs)
    assert sharing.encoded == 2 * pieces(processor, [0, 1, 2])
    assert any("visual" in name or "vision_tower" in name for name in gradients)
