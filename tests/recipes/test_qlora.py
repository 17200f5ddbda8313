"""QLoRA on a CPU: both stages train, resume, merge and reload; what cannot work is refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from grounding.errors import UsageError
from models.loading import load_config, load_policy
from recipes.dry_run import check_quantized
from recipes.memory import estimate
from recipes.merge import logits, sample_batch
from recipes.runner import dry_run, jobs_of, run_recipe
from recipes.training import LORA_DEFAULTS
from tests.recipes.families import PARAMETERS, make_family
from tests.recipes.test_stages import recipe_of
from tests.recipes.tiny import make_data, make_model


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qlora")
    return make_model(folder / "model", "qwen3_vl"), make_data(folder / "data")


def quantized(places, output, **stages):
    recipe = recipe_of(*places, output, **stages)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"quantize": "nf4"})})


def variety(completions, **columns):
    """Something for a model of random weights to learn: answers of many different letters."""
    return [float(len(set(chat[0]["content"]))) for chat in completions]


def test_both_stages_train_resume_merge_and_reload(places, tmp_path):
    args = {"learning_rate": 1e-2, "save_steps": 1}
    grpo = {"rewards": [{"name": f"{__name__}.variety"}], "credit": {"strategy": "coupled_rhythm"}}
    grpo["args"] = {**args, "beta": 0.1}
    recipe = quantized(places, tmp_path, sft={"args": {**args, "gradient_checkpointing": True}}, grpo=grpo)
    run_recipe(recipe)
    start = places[0]
    for job in jobs_of(recipe):
        adapter = load_file(job.folder / "adapter/adapter_model.safetensors")
        assert {weight.dtype for weight in adapter.values()} == {torch.float32}, "TRL rounds it to bfloat16"
        assert json.loads((job.folder / "training.json").read_text())["merged_apart"] < 1e-3
        model, processor = load_policy(start, quantize="nf4")
        batch = sample_batch(processor, True, None)
        untrained = logits(model, batch)
        trained = logits(PeftModel.from_pretrained(model, job.folder / "adapter"), batch)
        merged, _ = load_policy(job.folder / "model")
        assert (logits(merged, batch) - trained).norm() < 1e-3 * trained.norm()
        assert (untrained - trained).norm() > 1e-2 * trained.norm(), "it has learned something"
        start = job.folder / "model"

    whole = load_file(job.folder / "model/model.safetensors")
    (job.folder / "DONE").unlink()
    shutil.rmtree(job.folder / "model")
    shutil.rmtree(job.folder / "checkpoints/checkpoint-2")
    run_recipe(recipe)
    resumed = load_file(job.folder / "model/model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_dry_run_counts_4_bit_weights_and_asks_for_the_package(places, tmp_path, monkeypatch):
    recipe = quantized(places, tmp_path, sft={})
    text = "\n".join(dry_run(recipe))
    assert "LoRA on nf4, " in text and "bitsandbytes" in text
    found = importlib.util.find_spec
    monkeypatch.setattr("models.quantizing.find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    for needs in (lambda: load_policy(places[0], quantize="nf4"), lambda: list(dry_run(recipe))):
        with pytest.raises(UsageError, match=r"model\.quantize needs bitsandbytes: pip install"):
            needs()


def test_an_8b_model_takes_a_third_of_the_memory(tmp_path):
    config = load_config(make_family(tmp_path, "qwen3_vl_8b"))
    lora = LoraConfig(**LORA_DEFAULTS)
    plain, small = (estimate(config, lora, batch=1, tokens=1000, quantize=how) for how in (None, "nf4"))
    layers = 36 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 12288)  # q and o, k and v, the feed-forward part
    assert small.weights == pytest.approx(2 * (PARAMETERS["qwen3_vl_8b"] - layers) + layers * 4.127 / 8, rel=1e-3)
    assert small.weights < 0.42 * plain.weights
    assert (small.trainable, small.optimizer) == (plain.trainable, plain.optimizer)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora": None}, "4-bit weights cannot be trained themselves; give it lora"),
        ({"use_vllm": True}, r"stages\.0 \(grpo\)\.args\.use_vllm: .* rounds them anew each time"),
        ({"zero_stage": 3}, "ZeRO-3 cannot split 4-bit weights; use zero2"),
        ({"quantization_config": {"load_in_4bit": True}}, "are quantized already"),
    ],
)
def test_what_cannot_work_is_refused(places, tmp_path, given, said):
    (job,) = jobs_of(quantized(places, tmp_path, grpo={"lora": given.pop("lora", {})}))
    plugin = SimpleNamespace(zero_stage=given.pop("zero_stage")) if "zero_stage" in given else None
    args = SimpleNamespace(deepspeed_plugin=plugin, use_vllm=given.pop("use_vllm", False))
    with pytest.raises(UsageError, match=said):
        check_quantized(job, args, SimpleNamespace(**given))
