"""The folder a stage leaves is the model that was trained."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from grounding.errors import FoveaError
from models.loading import load_policy
from recipes.merge import check_finite, check_same, finish_model, logits, merge_adapter, sample_batch
from recipes.runner import jobs_of
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merge")
    return make_model(folder / "model", "qwen3_vl"), make_data(folder / "data", count=2)


def trained(places, folder, model=None, **lora):
    """A job with an adapter of random weights, the adapted model, its processor and what it answers."""
    recipe = recipe_of(*places, folder, sft={"lora": lora})
    (job,) = jobs_of(recipe.model_copy(update={"model": recipe.model.model_copy(update=model or {})}))
    loading = {"dtype": job.recipe.model.dtype, "quantize": job.recipe.model.quantize}
    model, processor = load_policy(job.model_path, **loading)
    adapted = get_peft_model(model, LoraConfig(r=4, **lora)).eval()
    torch.manual_seed(0)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data.normal_(0, 0.3)
    adapted.save_pretrained(job.folder / "adapter")
    return job, adapted, processor, logits(adapted, sample_batch(processor, True, None))


@pytest.mark.parametrize(
    ("lora", "tied"),
    [
        ({"target_modules": ["q_proj"]}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}, True),
        ({"target_modules": ["q_proj"], "use_dora": True}, True),
        ({"target_modules": ["q_proj"], "use_dora": True, "use_rslora": True}, True),
        ({"target_modules": "all-linear", "use_rslora": True, "init_lora_weights": "orthogonal"}, True),
        ({"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, "init_lora_weights": False}, True),
    ],
)
def test_the_merged_folder_answers_as_the_adapted_model(lora, tied, places, tmp_path):
    job, adapted, processor, expected = trained(places, tmp_path, **lora)
    merge_adapter(job, adapted, processor)
    merged, _ = load_policy(job.folder / "model")
    torch.testing.assert_close(logits(merged, sample_batch(processor, True, None)), expected, rtol=1e-4, atol=1e-4)
    assert merged.config.tie_word_embeddings is tied


def test_a_merge_that_differs_is_refused(places, tmp_path, monkeypatch):
    """An adapter of shared embeddings, merged into both of them."""
    job, adapted, processor, _ = trained(places, tmp_path, target_modules=["q_proj", "embed_tokens"])
    monkeypatch.setattr("recipes.merge.untie", lambda model: False)
    with pytest.raises(FoveaError, match=r"stages\.0 \(sft\): the merged model is not the trained one"):
        merge_adapter(job, adapted, processor)
    assert not (job.folder / "model").exists()


@pytest.mark.parametrize(
    ("dtype", "bound", "lora"),
    [("float32", 1e-3, {}), ("bfloat16", 5e-2, {}), ("float32", 1e-3, {"use_dora": True, "use_rslora": True})],
)
def test_an_adapter_on_4_bit_weights_is_merged_into_what_these_stand_for(dtype, bound, lora, places, tmp_path):
    lora = {"target_modules": ["q_proj", "up_proj"], **lora}
    job, adapted, processor, expected = trained(places, tmp_path, {"dtype": dtype, "quantize": "nf4"}, **lora)
    apart = merge_adapter(job, adapted, processor)
    merged, _ = load_policy(job.folder / "model")
    batch = sample_batch(processor, True, None)
    assert relative(logits(merged, batch), expected) == pytest.approx(apart, rel=1e-3) and apart < bound
    assert {str(weight.dtype) for weight in merged.parameters()} == {f"torch.{dtype}"}
    assert "quantization_config" not in json.loads((job.folder / "model/config.json").read_text())
    other, _ = load_policy(job.model_path, dtype=dtype)
    other = PeftModel.from_pretrained(other, job.folder / "adapter").merge_and_unload()
    assert relative(logits(other, batch), expected) > bound, "the weights before they were rounded are another model"
    before, after = other.state_dict(), merged.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    layers = {name for name in before if ".language_model.layers." in name and name.endswith("_proj.weight")}
    assert kept == before.keys() - layers


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_an_adapter_that_was_not_saved_as_it_was_trained_is_refused(places, tmp_path):
    job, adapted, processor, expected = trained(places, tmp_path, target_modules=["q_proj"])
    merge_adapter(job, adapted, processor, 1.05 * expected, rounded=True)  # autocasting, another device
    file = job.folder / "adapter/adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    save_file({**weights, name: weights[name] * 1.2}, file)
    with pytest.raises(FoveaError, match=r"stages\.0 \(sft\): the saved adapter is not the trained one"):
        merge_adapter(job, adapted, processor, expected)
    save_file({key: weight for key, weight in weights.items() if key != name}, file)
    with pytest.raises(FoveaError, match="does not have all weights of its adapter"):
        merge_adapter(job, adapted, processor)


def test_rounding_is_let_through_and_more_is_not():
    adapted = torch.tensor([[3.0, 4.0]])
    check_same(adapted, torch.tensor([[3.0, 4.004]]), 1e-3, "stage")  # 0.004 of 5
    for merged in (torch.tensor([[3.0, 4.01]]), torch.tensor([[3.0, torch.nan]]), torch.zeros(1, 3)):
        with pytest.raises(FoveaError):
            check_same(adapted, merged, 1e-3, "stage")


def test_the_processor_and_the_generation_settings_are_those_of_the_training(places, tmp_path):
    job, adapted, processor, _ = trained(places, tmp_path, target_modules=["q_proj"])
    processor.tokenizer.eos_token = "<|endoftext|>"  # as SFTConfig.eos_token does
    processor.chat_template = processor.chat_template + "{# another one #}"
    adapted.generation_config.repetition_penalty = 1.25
    merge_adapter(job, adapted, processor)
    merged, saved = load_policy(job.folder / "model")
    assert saved.tokenizer.eos_token == "<|endoftext|>"
    assert saved.chat_template.endswith("{# another one #}")
    written = json.loads((job.folder / "model/generation_config.json").read_text())
    assert written["repetition_penalty"] == 1.25
    ended = merged.generation_config.eos_token_id
    assert saved.tokenizer.eos_token_id in (ended if isinstance(ended, list) else [ended])


def test_weights_trained_in_32_bits_go_back_to_the_type_they_came_in(places, tmp_path):
    start, _ = load_policy(places[0], dtype=torch.bfloat16)
    start.save_pretrained(tmp_path / "half")
    _, processor = load_policy(places[0])
    processor.save_pretrained(tmp_path / "half")
    (job,) = jobs_of(recipe_of(tmp_path / "half", places[1], tmp_path, sft={"lora": None}))
    model, _ = load_policy(job.model_path, dtype=torch.float32)

    def save_model(folder):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    alone = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    finish_model(job, SimpleNamespace(accelerator=alone, save_model=save_model))
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "half", job.folder / "model"))
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_that_are_not_finite_are_no_model(tmp_path):
    save_file({"a": torch.ones(2), "b": torch.tensor([1.0, torch.inf])}, tmp_path / "model.safetensors")
    with pytest.raises(FoveaError, match=r"stages\.0: the trained weights are not finite \(b\)"):
        check_finite(tmp_path, "stages.0")
