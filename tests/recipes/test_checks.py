"""What is wrong with a stage is said in one line, before anything is trained."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from grounding.errors import BrokenRow, UsageError
from grounding.io import read_samples, write_samples
from models.loading import load_processor
from recipes.config import DataSpec, load_recipe, parse_recipe
from recipes.data import build_dataset, stored, whole_rows
from recipes.runner import jobs_of
from recipes.stage import STAGES
from tests.recipes.tiny import make_data, make_model, tokenizer

SFT = {"kind": "sft", "args": {"max_steps": 2}}
GRPO = {
    "kind": "grpo",
    "rewards": ["iou"],
    "args": {"max_steps": 3, "per_device_train_batch_size": 8, "num_generations": 4},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), count=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


def check(model, data, stage, **of_model):
    content = {"name": "run", "model": {"path": str(model), "dialect": "qwen3_vl", **of_model}, "data": str(data)}
    recipe = parse_recipe({**content, "stages": [stage], "wandb": "disabled"})
    job = jobs_of(recipe)[0]
    STAGES.get(job.spec.kind)(job).check()


def refusal(*args, **kwargs):
    with pytest.raises(UsageError) as caught:
        check(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_args(stage, **args):
    more = {key: args.pop(key) for key in ("lora", "eval") if key in args}
    return {**stage, **more, "args": {**stage["args"], **args}}


def test_right_stages_pass(model, data):
    check(model, data, SFT)
    check(model, data, GRPO)
    check(model, data, with_args(SFT, packing=False, resume_from_checkpoint=None))


@pytest.mark.parametrize("stage", [SFT, GRPO], ids=["sft", "grpo"])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"output_dir": "elsewhere"}, "the run folder decides"),
        ({"resume_from_checkpoint": "/nope"}, "goes on from the last checkpoint by itself"),
        ({"push_to_hub": True}, "hf upload"),
        ({"hub_model_id": "me/mine"}, "nothing is uploaded"),
        ({"save_only_model": True}, "could not be resumed"),
        ({"remove_unused_columns": True}, "no column can be removed"),
        ({"train_sampling_strategy": "group_by_length"}, "length of a row"),
        ({"group_by_length": True}, "length of a row"),
        ({"model_init_kwargs": {"quantization_config": {}}}, "the recipe's `model`"),
        ({"logging_dir": "x"}, "the run folder decides"),
        ({"max_pixels": 9}, "model.max_pixels"),
        ({"vision_lr": 1e-6}, "is train.vision_tower.learning_rate of the stage"),
        ({"lora_rank": 8}, "`lora` section"),
        ({"num_train_epochs": 0, "max_steps": -1}, "nothing would be trained"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "the stage has no eval"),
        ({"eval": {"split": "train"}}, "never read: set args.eval_strategy"),
        ({"lora": {"target_modules": ["nope"]}}, r"stages.0 ("),
        ({"use_liger_kernel": True}, "args.use_liger_kernel needs liger_kernel: pip install liger-kernel"),
    ],
)
def test_keys_that_break_a_run_are_refused(model, data, stage, args, message):
    assert message in refusal(model, data, with_args(stage, **args))


@pytest.mark.parametrize(
    ("stage", "args", "message"),
    [
        (SFT, {"packing": True}, "cannot be joined"),
        (SFT, {"padding_free": True}, "cannot be joined"),
        (SFT, {"assistant_only_loss": True}, "on the answer already"),
        (SFT, {"truncation_mode": "keep_end"}, "rows are never cut"),
        (SFT, {"pad_to_multiple_of": 8}, "cannot be padded so"),
        (SFT, {"max_seq_length": 512}, "is called max_length"),
        (GRPO, {"max_prompt_length": 512}, "TRL no longer cuts prompts"),
        (GRPO, {"chat_template_kwargs": {"enable_thinking": False}}, "ask alike"),
        (GRPO, {"reward_weights": [1.0]}, "give each entry of `rewards` its weight"),
        (GRPO, {"sync_ref_model": True, "beta": 0.1}, "with LoRA the reference"),
        (GRPO, {"use_vllm": True}, "args.use_vllm needs vllm"),
        (
            GRPO,
            {"per_device_train_batch_size": 32},
            "4 samples in DATA do not fill one generation batch of 8 prompts, so no step would be taken",
        ),
        (SFT, {"per_device_train_batch_size": 8, "dataloader_drop_last": True}, "do not fill one batch of 8"),
    ],
)
def test_keys_of_one_kind_of_stage(model, data, stage, args, message):
    assert message.replace("DATA", str(data)) in refusal(model, data, with_args(stage, **args))


def test_a_vision_tower_that_would_get_no_gradient(model, data):
    args = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    stage = with_args(SFT, **args, lora={"exclude_modules": None})
    assert "gets no gradient" in refusal(model, data, stage)
    check(model, data, with_args(SFT, **args))  # the default leaves the tower out


def test_an_image_the_model_cannot_take_is_named(model, tmp_path):
    data = make_data(tmp_path, count=2, size=(96, 96))
    rows = list(read_samples(data / "train.jsonl"))
    thin = replace(rows[1], images=(replace(rows[1].images[0], width=9000, height=4),))
    write_samples(data / "train.jsonl", [rows[0], thin])
    with pytest.raises(BrokenRow, match=r"sample 'square-1': the model cannot take images/1\.png, 9000x4 pixels"):
        check(model, data, SFT)


def test_a_row_longer_than_max_length_is_named_with_the_length_it_needs(model, data, tmp_path):
    processor = load_processor(model)
    content = {"name": "run", "model": {"path": str(model), "dialect": "qwen3_vl"}, "data": str(data)}
    recipe = parse_recipe({**content, "stages": [with_args(SFT, max_length=90)], "output": str(tmp_path)})
    stage = STAGES.get("sft")(jobs_of(recipe)[0])
    row = build_dataset(DataSpec(path=str(data)), recipe.model, processor, with_completion=True)[2]
    with pytest.raises(BrokenRow, match=r"sample 'square-2': needs (\d+) tokens, args.max_length is 90") as caught:
        whole_rows(stage.arguments(), processor)([dict(row)])
    needed = int(caught.value.reason.split()[1])
    assert len(whole_rows(replace_length(stage, needed), processor)([dict(row)])["input_ids"][0]) == needed


def replace_length(stage, length):
    args = stage.arguments()
    args.max_length = length
    return args


def test_chat_templates_that_cannot_ask_or_teach(data, tmp_path):
    template = tokenizer().chat_template
    no_answer = template.replace("{{ part.text }}", "{{ part.text if message.role == 'user' }}")
    opening = template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    folder = make_model(tmp_path / "model", "qwen3_vl")

    def use(text):
        for name in ("tokenizer_config.json", "processor_config.json"):
            config = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
            config.pop("chat_template", None)
            (folder / name).write_text(json.dumps(config))
        file = folder / "chat_template.jinja"
        file.write_text(text) if text else file.unlink()

    use(no_answer)
    assert "leaves the answer out of what is taught" in refusal(folder, data, SFT)
    use(opening)
    check(folder, data, SFT)
    assert "set model.grammar to think" in refusal(folder, data, SFT, grammar="bare")
    assert "set model.grammar to think" in refusal(folder, data, GRPO, grammar="bare")
    use(None)
    assert "no chat template" in refusal(folder, data, GRPO)
    for hostile, reason in (
        ("{{ raise_exception('no pictures\\nhere') }}", "no pictures here"),
        ("{{ messages[7].role }}", "no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "str"),
        ("{{ ''.__class__.mro() }}", "unsafe"),
        ("{% for", "unexpected"),
    ):
        use(hostile)
        for stage in (SFT, GRPO):
            assert reason in refusal(folder, data, stage), hostile
    answering = template.replace(
        "<|im_start|>{{", "{% if message.role == 'assistant' %}{{ 1 / 0 }}{% endif %}<|im_start|>{{"
    )
    assert answering != template
    use(answering)
    assert "division by zero" in refusal(folder, data, SFT)


def test_a_dialect_of_another_family_is_a_warning(model, data, caplog):
    with caplog.at_level(logging.WARNING, "fovea"):
        check(model, data, SFT, dialect="qwen2_5_vl")
    assert "model.dialect is qwen2_5_vl, but" in caplog.text and "qwen3_vl model" in caplog.text
    caplog.clear()
    check(model, data, SFT, dialect="fovea")
    check(model, data, SFT)
    assert caplog.text == ""


def test_the_true_cause_of_a_slip(tmp_path, model, data):
    file = tmp_path / "r.yaml"
    file.write_text("name: a\nmodel: {path: m, dialect: qwen3_vl}\ndata: somewhere\nstages: [{kind: sft}]\n")

    def said(*overrides, path=file):
        with pytest.raises(UsageError) as caught:
            load_recipe(path, overrides)
        return str(caught.value)

    assert "stages has 1 items, counted from 0" in said("stages.5.args.x=1")
    assert "there is no 'modle'; did you mean 'model'?" in said("modle.path=x")
    assert "did you mean configs/recipes/quickstart.yaml?" in said(path="recipes/quickstart")
    assert "has no {instruction}" in said("model.prompt=Click it")
    assert load_recipe(file, ["data.limit=4"]).stages[0].data == DataSpec(path="somewhere", limit=4)
    assert "did you mean 'qwen2_5_vl'" in refusal(model, data, SFT, dialect="qwen2.5")
    missing = refusal(model, data, with_args(SFT, eval={"split": "val"}, eval_strategy="steps", eval_steps=1))
    assert "no val.jsonl or val.parquet in this folder; it has train: set the section's `split`" in missing


def test_data_are_read_once_however_often_they_are_asked_for(data):
    spec = DataSpec(path=str(data))
    assert stored(spec) is stored(spec)
    assert len(stored(spec)) == 4
