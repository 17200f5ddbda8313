"""Which adapters are trained, and runs that start from somebody's adapter."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from grounding.errors import FoveaError, UsageError
from models.loading import load_policy
from recipes.runner import dry_run, run_recipe
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return make_model(folder / "model", "qwen3_vl"), make_data(folder / "data", count=4)


def make_adapter(model_folder, folder, **settings):
    """Somebody's adapter, and the model with it added."""
    model, _ = load_policy(model_folder)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": ["q_proj", "up_proj"], **settings}))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


def recipe_from(places, adapter, output, **sft):
    recipe = recipe_of(*places, output, sft={"args": {"max_steps": 1}, **sft})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"adapter": str(adapter)})})


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (
            {"init_lora_weights": "pissa"},
            r"init_lora_weights is 'pissa': it changes the weights .* take one of true, ",
        ),
        ({"init_lora_weights": "pissa_niter_4"}, "it changes the weights"),
        ({"init_lora_weights": "olora"}, "it changes the weights"),
        ({"init_lora_weights": "mica"}, "take one of true, false, gaussian, orthogonal"),
        (
            {"layer_replication": [[0, 2], [1, 2]]},
            r"lora\.layer_replication: the merged model would have other layers",
        ),
        ({"alora_invocation_tokens": [5]}, "cannot be added to the model's weights"),
        ({"lora_bias": True}, "most layers have no bias"),
        ({"bias": "all"}, r"lora\.bias: biases stay trained"),
    ],
)
def test_adapters_whose_sum_is_not_provably_the_trained_model_are_refused(places, tmp_path, lora, said):
    with pytest.raises(UsageError, match=said) as caught:
        list(dry_run(recipe_of(*places, tmp_path, sft={"lora": lora})))
    assert "\n" not in str(caught.value)


def test_a_run_starts_from_the_model_with_somebodys_adapter(places, tmp_path):
    expected = make_adapter(places[0], tmp_path / "adapter", use_dora=True).state_dict()
    recipe = recipe_from(places, tmp_path / "adapter", tmp_path, lora={"use_dora": True, "use_rslora": True})
    assert f"0 sft: {recipe.folder / 'start'} -> " in "\n".join(dry_run(recipe))
    run_recipe(recipe)
    start, _ = load_policy(recipe.folder / "start")
    for name, weight in start.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)
    base, _ = load_policy(places[0])
    moved = [name for name, weight in base.state_dict().items() if not torch.equal(weight, start.state_dict()[name])]
    assert moved and all("q_proj" in name or "up_proj" in name for name in moved)

    written = (recipe.folder / "start/model.safetensors").stat().st_mtime_ns
    run_recipe(recipe)
    assert (recipe.folder / "start/model.safetensors").stat().st_mtime_ns == written
    file = tmp_path / "adapter/adapter_model.safetensors"
    save_file({name: weight * 2 for name, weight in load_file(file).items()}, file)
    with pytest.raises(UsageError, match=r"was made from another content of model .*start, which has changed"):
        run_recipe(recipe)


def test_an_adapter_of_another_kind_or_model_is_refused(places, tmp_path):
    adapter = tmp_path / "adapter"

    def refused(folder=adapter):
        with pytest.raises(UsageError) as caught:
            run_recipe(recipe_from(places, folder, tmp_path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no adapter_config.json in this folder" in refused(tmp_path)
    make_adapter(make_model(tmp_path / "other", "internvl"), adapter, target_modules=["q_proj", "fc1"])
    with pytest.raises(FoveaError, match=r"model\.adapter .* has weights of no layer of the model: .*vision_tower"):
        run_recipe(recipe_from(places, adapter, tmp_path))
    make_adapter(places[0], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    with pytest.raises(FoveaError, match="has weights of no layer of the model"):
        run_recipe(recipe_from(places, adapter, tmp_path))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    assert "adapter_config.json.init_lora_weights is 'pissa'" in refused()
    shutil.rmtree(adapter)
    model, _ = load_policy(places[0])
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(adapter)
    assert "PROMPT_TUNING cannot be added to weights; take a LoRA adapter" in refused()
