"""What `--dry-run` says about a training stage, all of it from the real configuration, processor and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from grounding.completion import check_grammar
from models.loading import load_config, load_processor
from models.prompting import encode
from recipes.checks import import_packages
from recipes.config import DataSpec
from recipes.data import build_dataset, example, stored, whole_rows
from recipes.memory import estimate
from recipes.stage import Job
from recipes.training import build_lora, build_toolbox
from rewards.compose import RewardFunction
from rewards.trial import try_rewards

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
    config = load_config(spec.path, trust_remote_code=spec.trust_remote_code)
    processor = load_processor(
        spec.path,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        trust_remote_code=spec.trust_remote_code,
    )
    toolbox = build_toolbox(job, processor)
    lines = []
    for section, data in (("data", job.spec.data), ("eval", job.spec.eval)):
        if data is not None:
            dataset = build_dataset(data, spec, processor)
            lines.append((section, f"{len(dataset):,} samples from {', '.join(data.path)}"))
            lines.append(("images", f"those of {_open_images(dataset):,} samples opened: sizes as stated"))
    shown = example(job.spec.data, spec, processor, with_completion=supervised, toolbox=toolbox)
    taught = build_dataset(job.spec.data, spec, processor, with_completion=supervised, toolbox=toolbox)
    row = taught[stored(job.spec.data).example]
    if toolbox is not None:
        budget = f"{job.spec.tools.turns} turns, {job.spec.tools.image_tokens} image tokens"
        lines.append(("tools", f"{', '.join(toolbox.tools)}; calls as {toolbox.protocol.name}; {budget}"))
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
    generates = not supervised and not args.use_vllm
    memory = estimate(
        config,
        lora,
        batch=args.per_device_train_batch_size,
        tokens=prompt_tokens + completion_tokens,
        generated_batch=args.per_device_train_batch_size * args.steps_per_generation if generates else 0,
        checkpointing=bool(args.gradient_checkpointing),
        dtype=torch.float32 if lora is None and args.deepspeed_plugin is None else None,  # as `load_for` does
    )
    trained = f"LoRA, {memory.trainable:,} of {memory.parameters:,} weights" if lora else f"all {memory.parameters:,}"
    lines += [("batch", _batch(args, supervised)), ("trained", trained), ("memory", str(memory))]
    if imported:
        lines.append(("imported", ", ".join(imported)))
    if rewards:
        rows = _of_each_kind(job.spec.data, build_dataset(job.spec.data, spec, processor))
        grammar = check_grammar(spec.grammar)
        tokenizer = processor.tokenizer
        for trial in try_rewards(
            rewards, spec.dialect, grammar, rows, tokenize=lambda text: tokenizer(text)["input_ids"]
        ):
            lines.append(("reward", f"{trial.reward} on {trial.kind} {trial.sample}: {trial}"))
    return lines


def _open_images(dataset: Dataset) -> int:
    """Read samples spread over the data with their images; returns how many. Raises `BrokenRow`."""
    count = min(len(dataset), MOST_OPENED)
    for index in range(count):
        dataset[index * len(dataset) // count]
    return count


def _of_each_kind(spec: DataSpec, dataset: Dataset) -> list[dict[str, Any]]:
    """Rows of the data, the first of each source and kind."""
    return [dataset[index] for index in list(stored(spec).kinds.values())[:MOST_TRIED]]


def _batch(args: Any, supervised: bool) -> str:
    each, accumulated, processes = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    size = each * accumulated * processes
    text = f"{size} a step ({each} x {accumulated} accumulated x {processes} processes)"
    if supervised:
        return text
    engine = f"vLLM ({args.vllm_mode})" if args.use_vllm else "transformers"
    prompts = args.generation_batch_size // args.num_generations
    return f"{text}; {prompts} prompts x {args.num_generations} rollouts generated at once by {engine}"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
