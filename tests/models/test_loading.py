"""Loading and saving policies: with a bare tokenizer avoided, pickles refused, and folders stock classes can read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load, load_file, save

from grounding.errors import UsageError
from models.loading import SeenSizes, load_config, load_policy, load_processor, processor_sizes, save_policy
from tests.recipes.tiny import DIALECTS, make_model, placeholder

WITHOUT_TORCHVISION = pytest.mark.skipif(
    transformers.utils.is_torchvision_available(), reason="the stock processor is used where torchvision is there"
)


@pytest.fixture(scope="module", params=list(DIALECTS))
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


def test_a_saved_folder_loads_again_with_the_same_weights_and_inputs(folder, tmp_path):
    model, processor = load_policy(folder)
    save_policy(tmp_path, model, processor)
    again, processor_again = load_policy(tmp_path)
    for (name, one), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    text = f"{placeholder(processor)}click the red square"
    image = Image.new("RGB", (80, 50), "red")
    one = processor(images=[image], text=[text], return_tensors="pt")
    other = processor_again(images=[image], text=[text], return_tensors="pt")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_saved_folder_names_stock_classes(folder):
    saved = json.loads((folder / "processor_config.json").read_text())
    assert hasattr(transformers, saved["processor_class"])
    assert hasattr(transformers, saved["image_processor"]["image_processor_type"])
    # Not importable without torchvision, but stock transformers lists the name
    assert saved["video_processor"]["video_processor_type"] in dir(transformers)
    assert json.loads((folder / "tokenizer_config.json").read_text())["processor_class"] == saved["processor_class"]


@WITHOUT_TORCHVISION
def test_auto_processor_alone_would_have_dropped_the_images(folder):
    """The reason for our loader; when this fails, transformers has fixed it and the loader can go."""
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder)
    except ImportError:
        return
    assert not hasattr(processor, "image_processor")


@WITHOUT_TORCHVISION
def test_video_is_refused_in_one_line(folder):
    processor = load_processor(folder)
    with pytest.raises(UsageError, match="torchvision"):
        processor(videos=[[Image.new("RGB", (28, 28))] * 2], text=["x"])


@pytest.mark.parametrize("size", [(96, 96), (100, 37), (640, 480), (33, 200)])
def test_seen_sizes_are_what_the_processor_makes_of_the_image(folder, size):
    processor = load_processor(folder)
    seen = SeenSizes(processor)(*size)
    inputs = processor(images=[Image.new("RGB", size)], text=[placeholder(processor)], return_tensors="pt")
    assert (seen.width, seen.height) == size
    assert set(processor_sizes(processor, inputs)) == {(seen.input_width, seen.input_height)}
    if "image_grid_thw" in inputs:
        patch = processor.image_processor.patch_size
        assert inputs["pixel_values"].shape[0] == seen.input_width * seen.input_height // patch**2


def test_pixel_limits_apply(folder):
    if load_config(folder).model_type == "internvl":
        with pytest.raises(UsageError, match=r"GotOcr2ImageProcessor(Pil)? has no min_pixels and max_pixels"):
            load_processor(folder, max_pixels=10**6)
        return
    factor = load_processor(folder).image_processor.patch_size * 2
    processor = load_processor(folder, min_pixels=factor**2, max_pixels=(2 * factor) ** 2)
    seen = SeenSizes(processor)(500, 500)
    assert (seen.input_width, seen.input_height) == (2 * factor, 2 * factor)
    with pytest.raises(UsageError, match=r"min_pixels .* greater"):
        load_processor(folder, min_pixels=10**6, max_pixels=10**3)


def test_pickled_weights_are_refused_unless_asked_for(folder, tmp_path):
    model, processor = load_policy(folder)
    save_policy(tmp_path, model, processor)
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match=r"pytorch_model\.bin is a pickle.*allow_pickle=true"):
        load_policy(tmp_path)
    again, _ = load_policy(tmp_path, allow_pickle=True)
    assert torch.equal(next(again.parameters()), next(model.parameters()))


class Touches:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["hostile", "no pickle", "cut off"])
def test_a_pickle_that_is_no_weights_is_one_line_and_runs_nothing(folder, tmp_path, kind):
    save_policy(tmp_path, *load_policy(folder))
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    weights = tmp_path / "pytorch_model.bin"
    torch.save({**state, "more": Touches(tmp_path / "ran")} if kind == "hostile" else state, weights)
    if kind != "hostile":
        weights.write_bytes(b"not a pickle" if kind == "no pickle" else weights.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"(?s)^model [^\n]*(pickle|weights)[^\n]*$"):
        load_policy(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_policy(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UsageError, match="no preprocessor_config"):
        load_policy(tmp_path)
    (tmp_path / "processor_config.json").write_bytes((folder / "processor_config.json").read_bytes())
    with pytest.raises(UsageError, match="no weights"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(UsageError, match="no_such_model"):
        load_policy(tmp_path)


def test_weights_that_are_not_the_models_are_one_line(folder, tmp_path):
    """Transformers would put random numbers where weights are missing, and only warn."""
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model"
    file = path / "model.safetensors"
    whole = file.read_bytes()
    weights = load(whole)
    name = next(key for key in weights if key.endswith("layers.0.mlp.up_proj.weight"))

    def refused(content):
        file.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_policy(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        assert "model.safetensors is damaged" in refused(whole[:length])
    others = {key: weight for key, weight in weights.items() if key != name}
    said = refused(save(others, {"format": "pt"}))
    assert "1 weights are missing from its files (" in said and "layers.0.mlp.up_proj.weight" in said
    said = refused(save({**others, name: torch.ones(3, 5)}, {"format": "pt"}))
    expected = list(weights[name].shape)
    assert f"layers.0.mlp.up_proj.weight is [3, 5] in its weights, {expected} by its config.json" in said
