"""What can be known before anything is trained: what is wrong with a stage, and what `--dry-run` says about it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainingArguments

from grounding.completion import check_grammar
from grounding.errors import UsageError
from models.loading import load_config, load_processor, weights_dtype
from models.lora import check_adapter
from models.parts import LANGUAGE, PARTS, TOWER, check_parts, part_of, plain_name
from models.profile import FAMILY_DIALECTS, family_dialect
from models.prompting import encode
from models.quantizing import check_installed
from recipes.config import DataSpec, ModelSpec
from recipes.data import build_dataset, check_images, count_rows, example, stored, whole_rows
from recipes.memory import estimate, weights_of
from recipes.stage import Job
from recipes.training import build_lora, build_toolbox, check_datasets, full_parts
from rewards.compose import RewardFunction
from rewards.spec import RewardSpec
from rewards.trial import try_rewards
from tools.toolbox import Toolbox

log = logging.getLogger("fovea")

# What a key or value needs that is not always installed: its import name, and how to install it.
PACKAGES = {
    "vllm": "vllm",
    "bitsandbytes": "bitsandbytes",
    "deepspeed": "deepspeed",
    "liger_kernel": "liger-kernel",
    "flash_attn": "flash-attn",
}


def check_training(job: Job, args: TrainingArguments, *, supervised: bool = False) -> None:
    """Check a stage's sections, packages, data, images, model and LoRA against each other.

    Raises:
        UsageError: naming the key or the file.
        BrokenRow: a sample whose image the model cannot take.
    """
    where = job.where
    lora = build_lora(job)
    if hasattr(args, "completion_only_loss") and args.pad_to_multiple_of is not None:
        raise UsageError(f"{where}.args.pad_to_multiple_of: rows with images cannot be padded so; remove the key")
    _check_evaluation(job, args)
    check_datasets(job)  # before anything counts rows
    check_steps(job, args)
    for package, key in needed_packages(job, args).items():
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{where}: {key} needs {package}: pip install {PACKAGES[package]}")
    if lora is not None and getattr(args, "sync_ref_model", False):
        raise UsageError(
            f"{where}.args.sync_ref_model: with LoRA the reference is the model without its adapter, which is never "
            "synchronized; remove the key, or set lora: null"
        )
    config = check_prompts(job, supervised=supervised)
    check_quantized(job, args, config)
    if job.spec.train is not None:
        check_train(job, args, config)
    if lora is not None:
        check_lora(job, args, lora, config)


def check_prompts(job: Job, *, supervised: bool = False) -> Any:
    """Check a stage's samples against its model: dialect, prompts, sizes of images. Returns the configuration.

    Raises:
        UsageError: naming the key or the file.
        BrokenRow: a sample whose image the model cannot take.
    """
    check_datasets(job)
    spec = job.recipe.model
    if spec.quantize is not None:
        check_installed()
    if spec.adapter is not None:
        check_adapter(spec.adapter)
    config = load_config(spec.path, trust_remote_code=spec.trust_remote_code)
    own = family_dialect(config.model_type)
    if job.index == 0 and own is not None and spec.dialect in FAMILY_DIALECTS - {own}:
        log.warning(
            "model.dialect is %s, but %s is a %s model, which was trained on the words and numbers of %s",
            spec.dialect,
            spec.path,
            config.model_type,
            own,
        )
    processor = load_processor(
        spec.path,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        trust_remote_code=spec.trust_remote_code,
    )
    for data in (job.spec.data, job.spec.eval):
        if data is not None:
            check_images(data, processor)
            example(data, spec, processor, with_completion=supervised, toolbox=build_toolbox(job, processor))
    return config


def needed_packages(job: Job, args: TrainingArguments) -> dict[str, str]:
    """The packages a stage needs beside the ones that are always there: import name -> the key that asks for it."""
    needed = {}
    if getattr(args, "use_vllm", False):
        needed["vllm"] = "args.use_vllm"
    if any(word in str(args.optim) for word in ("8bit", "4bit", "paged", "bnb")):
        needed["bitsandbytes"] = "args.optim"
    if args.deepspeed:
        needed["deepspeed"] = "args.deepspeed"
    if args.use_liger_kernel:
        needed["liger_kernel"] = "args.use_liger_kernel"
    if job.recipe.model.quantize is not None:
        needed["bitsandbytes"] = "model.quantize"
    if job.recipe.model.attn_implementation == "flash_attention_2":
        needed["flash_attn"] = "model.attn_implementation"
    return needed


def import_packages(job: Job, args: TrainingArguments) -> list[str]:
    """Import what `needed_packages` names.

    Raises:
        UsageError: a package is there but cannot be imported.
    """
    names = needed_packages(job, args)
    for name, key in names.items():
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise UsageError(f"{job.where}: {key} needs {name}: {' '.join(str(error).split())}") from error
    return list(names)


def _check_evaluation(job: Job, args: TrainingArguments) -> None:
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    evaluates = strategy != "no" or args.eval_on_start
    if job.spec.eval is None and evaluates:
        key = "eval_strategy" if strategy != "no" else "eval_on_start"
        raise UsageError(f"{job.where}.args.{key}: the stage has no eval; add `eval: {{split: val}}`")
    if job.spec.eval is not None and not evaluates:
        raise UsageError(
            f"{job.where}.eval is never read: set args.eval_strategy to steps or epoch, or remove the section"
        )


def check_steps(job: Job, args: TrainingArguments) -> None:
    """Raise `UsageError` where a stage would train nothing: too few samples for one batch, or no epoch."""
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise UsageError(f"{job.where}.args: num_train_epochs is {args.num_train_epochs}: nothing would be trained")
    count = count_rows(job.spec.data)
    generated = getattr(args, "generation_batch_size", None) if hasattr(args, "steps_per_generation") else None
    if generated is not None:  # TRL leaves a batch out that is not full
        needed, batch = generated // args.num_generations, "generation batch"
        smaller = "per_device_train_batch_size or steps_per_generation"
    else:
        needed, batch = 1, "batch"
        smaller = "per_device_train_batch_size"
        if args.dataloader_drop_last:
            needed = args.train_batch_size * args.world_size
    if count < needed:
        raise UsageError(
            f"{job.where}: {count} samples in {', '.join(job.spec.data.path)} do not fill one {batch} of {needed} "
            f"prompts, so no step would be taken; lower args.{smaller}, or take more data"
        )


def check_quantized(job: Job, args: TrainingArguments, config: Any) -> None:
    """Raise `UsageError` where 4-bit weights would have to be trained or split, or are there already."""
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"{job.where}: the weights of {job.recipe.model.path} are quantized already, so nothing can be merged "
            "into them; take the 16-bit model, with model.quantize: nf4"
        )
    if job.recipe.model.quantize is None:
        return
    if not job.spec.adapts or LANGUAGE in full_parts(job):
        raise UsageError(f"{job.where}: model.quantize: 4-bit weights cannot be trained themselves; give it lora")
    if getattr(args, "use_vllm", False):
        raise UsageError(
            f"{job.where}.args.use_vllm: for vLLM, TRL adds the adapter to the 4-bit weights and takes it off again, "
            "which rounds them anew each time; remove it, or model.quantize"
        )
    if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
        raise UsageError(f"{job.where}: model.quantize: ZeRO-3 cannot split 4-bit weights; use zero2 or multi_gpu")


def check_train(job: Job, args: TrainingArguments, config: Any) -> None:
    """Raise `UsageError` for parts that the model does not have, or that would be trained in 16 bits."""
    where = f"{job.where}.train"
    check_parts(config.model_type, where)
    there = {part_of(name) for name in weights_of(config, None).trained}
    for part in PARTS:
        if part not in there and getattr(job.spec.train, part).how != "frozen":
            raise UsageError(f"{where}.{part}: {config.model_type} has none")
    plain = weights_dtype(job.recipe.model.path, job.recipe.model.dtype) == torch.float32
    if full_parts(job) and not (plain or args.bf16 or args.fp16):
        raise UsageError(
            f"{where}.{full_parts(job)[0]}: what is trained in full is held in 32 bits, beside a model in 16; "
            "set args.bf16: true"
        )


def check_lora(job: Job, args: TrainingArguments, lora: LoraConfig, config: Any) -> None:
    """Raise `UsageError` for an adapter that fits no layer, or that would get no gradient."""
    train = job.spec.train
    try:
        trained = weights_of(config, lora, train).trained
    except ValueError as error:
        raise UsageError(f"{job.where}.lora: {' '.join(str(error).split())}") from error
    parts = {part_of(plain_name(name)) for name in trained}
    for part in () if train is None else train.parts("lora"):
        if part not in parts:
            raise UsageError(f"{job.where}.train.{part}: lora.target_modules fits no layer of it")
    checkpointing = args.gradient_checkpointing_kwargs or {}
    plugin = getattr(args, "deepspeed_plugin", None)
    reentrant = checkpointing.get("use_reentrant") or (plugin is not None and plugin.zero_stage == 3)
    seen = [name for name in trained if part_of(plain_name(name)) == TOWER and "lora_" in name]
    if args.gradient_checkpointing and reentrant and seen:
        raise UsageError(
            f"{job.where}.lora adapts the vision tower ({seen[0]}), which gets no gradient under reentrant gradient "
            "checkpointing (use_reentrant: true, and ZeRO-3 with LoRA); set args.gradient_checkpointing: false, or "
            "leave the tower out (`train`, or lora.exclude_modules)"
        )


MOST_OPENED = 256  # samples whose images are opened, spread over the data
MOST_TRIED = 8  # samples that rewards are tried on, one of each source and kind


def describe_training(
    job: Job, args: TrainingArguments, *, supervised: bool, rewards: Sequence[RewardFunction] = ()
) -> list[tuple[str, str]]:
    """(label, value) lines: samples, a prompt as the model gets it, what is learned or paid, batch, memory.

    Raises:
        UsageError, FoveaError: something in model, data, rewards or arguments is wrong.
    """
    spec = job.recipe.model
    imported = import_packages(job, args)
    config, processor = _opened(spec)
    toolbox = build_toolbox(job, processor)
    lines = _data_lines(job, processor)
    shown = example(job.spec.data, spec, processor, with_completion=supervised, toolbox=toolbox)
    taught = build_dataset(job.spec.data, spec, processor, with_completion=supervised, toolbox=toolbox)
    row = taught[stored(job.spec.data).example]
    lines += _tool_lines(job, toolbox)
    prompt_tokens = encode(processor, [shown["asked"]], [row["images"]])["input_ids"].shape[1]
    lines.append(("prompt", f"{prompt_tokens} tokens: {_one_line(shown['asked'])}"))
    if supervised:
        labels = whole_rows(args, processor)([row])["labels"][0]
        learned = labels[labels != -100]
        completion_tokens = len(learned)
        lines.append(("labels", f"{len(learned)} tokens: {_one_line(processor.tokenizer.decode(learned))}"))
    else:
        completion_tokens = args.max_completion_length
    lora = build_lora(job)
    at_once = _generated_at_once(args)
    memory = estimate(
        config,
        lora,
        batch=args.per_device_train_batch_size,
        tokens=prompt_tokens + completion_tokens,
        generated_batch=0 if getattr(args, "use_vllm", False) else at_once,
        checkpointing=bool(args.gradient_checkpointing),
        dtype=torch.float32 if lora is None and args.deepspeed_plugin is None else None,  # as `load_for` does
        train=job.spec.train,
        quantize=spec.quantize,
    )
    part = memory.trainable < memory.parameters
    trained = f"{memory.trainable:,} of {memory.parameters:,} weights" if part else f"all {memory.parameters:,}"
    kind = "LoRA" if spec.quantize is None else f"LoRA on {spec.quantize}"
    trained = f"{kind}, {trained}" if lora else trained
    lines += [("batch", _batch(args)), ("trained", trained), ("memory", str(memory))]
    if imported:
        lines.append(("imported", ", ".join(imported)))
    return [*lines, *_reward_lines(job, processor, rewards)]


def _opened(spec: ModelSpec) -> tuple[Any, Any]:
    """The configuration and the processor of a recipe's model; no weights."""
    config = load_config(spec.path, trust_remote_code=spec.trust_remote_code)
    limits = {"min_pixels": spec.min_pixels, "max_pixels": spec.max_pixels}
    return config, load_processor(spec.path, **limits, trust_remote_code=spec.trust_remote_code)


def describe_drawing(job: Job, args: Any, rewards: Sequence[RewardFunction]) -> list[tuple[str, str]]:
    """The same of a stage that draws rollouts and trains nothing; `args` as `recipes.loops.drawing.DrawingConfig`."""
    spec = job.recipe.model
    config, processor = _opened(spec)
    toolbox = build_toolbox(job, processor)
    lines = [*_data_lines(job, processor), *_tool_lines(job, toolbox)]
    shown = example(job.spec.data, spec, processor, with_completion=False, toolbox=toolbox)
    row = build_dataset(job.spec.data, spec, processor, toolbox=toolbox)[stored(job.spec.data).example]
    tokens = encode(processor, [shown["asked"]], [row["images"]])["input_ids"].shape[1]
    answers = args.generation_batch_size * args.num_generations
    length = tokens + args.max_completion_length
    memory = estimate(config, None, batch=0, tokens=length, generated_batch=answers, quantize=spec.quantize)
    drawn = dataclasses.replace(memory, trainable=0, gradients=0, optimizer=0)
    lines += [
        ("prompt", f"{tokens} tokens: {_one_line(shown['asked'])}"),
        ("rollouts", f"{args.num_generations} a prompt, {args.generation_batch_size} prompts at once"),
        ("memory", str(drawn)),
    ]
    return [*lines, *_reward_lines(job, processor, rewards)]


def rewards_line(specs: Sequence[RewardSpec]) -> tuple[str, str]:
    """The recipe's rewards with their weights."""
    return "rewards", ", ".join(f"{spec.weight:g} x {spec.display}" for spec in specs)


def _data_lines(job: Job, processor: Any) -> list[tuple[str, str]]:
    lines = []
    for section, data in (("data", job.spec.data), ("eval", job.spec.eval)):
        if data is not None:
            dataset = build_dataset(data, job.recipe.model, processor)
            lines.append((section, f"{len(dataset):,} samples from {', '.join(data.path)}"))
            lines.append(("images", f"those of {_open_images(dataset):,} samples opened: sizes as stated"))
    return lines


def _tool_lines(job: Job, toolbox: Toolbox | None) -> list[tuple[str, str]]:
    if toolbox is None:
        return []
    budget = f"{job.spec.tools.turns} turns, {job.spec.tools.image_tokens} image tokens"
    return [("tools", f"{', '.join(toolbox.tools)}; calls as {toolbox.protocol.name}; {budget}")]


def _reward_lines(job: Job, processor: Any, rewards: Sequence[RewardFunction]) -> list[tuple[str, str]]:
    if not rewards:
        return []
    spec, tokenizer = job.recipe.model, processor.tokenizer
    rows = _of_each_kind(job.spec.data, build_dataset(job.spec.data, spec, processor))
    grammar = check_grammar(spec.grammar)
    trials = try_rewards(rewards, spec.dialect, grammar, rows, tokenize=lambda text: tokenizer(text)["input_ids"])
    return [("reward", f"{trial.reward} on {trial.kind} {trial.sample}: {trial}") for trial in trials]


def _open_images(dataset: Dataset) -> int:
    """Read samples spread over the data with their images; returns how many. Raises `BrokenRow`."""
    count = min(len(dataset), MOST_OPENED)
    for index in range(count):
        dataset[index * len(dataset) // count]
    return count


def _of_each_kind(spec: DataSpec, dataset: Dataset) -> list[dict[str, Any]]:
    """Rows of the data, the first of each source and kind."""
    return [dataset[index] for index in list(stored(spec).kinds.values())[:MOST_TRIED]]


def _generated_at_once(args: Any) -> int:
    """Rollouts a process generates at once: by a trainer of TRL's, or before training; 0 where there are none."""
    if hasattr(args, "steps_per_generation"):
        return args.per_device_train_batch_size * args.steps_per_generation
    if hasattr(args, "use_vllm"):  # distillation: one a prompt
        return args.per_device_train_batch_size * args.gradient_accumulation_steps
    return args.generation_batch_size * args.num_generations if hasattr(args, "num_generations") else 0


def _batch(args: Any) -> str:
    each, accumulated, processes = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    size = each * accumulated * processes
    text = f"{size} a step ({each} x {accumulated} accumulated x {processes} processes)"
    if not hasattr(args, "use_vllm"):
        drawn = getattr(args, "num_generations", None)
        return text if drawn is None else f"{text}; {drawn} rollouts a prompt are drawn before training"
    if not hasattr(args, "num_generations"):
        return text
    engine = f"vLLM ({args.vllm_mode})" if args.use_vllm else "transformers"
    prompts = args.generation_batch_size // args.num_generations
    return f"{text}; {prompts} prompts x {args.num_generations} rollouts generated at once by {engine}"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
