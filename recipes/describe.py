"""What `--dry-run` says about a training stage, all of it from the real configuration, processor and data."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from grounding.errors import UsageError
from models.loading import load_config, load_processor
from recipes.data import build_dataset
from recipes.memory import estimate
from recipes.stage import Job
from recipes.training import build_lora


def describe_training(job: Job, args: TrainingArguments, *, supervised: bool) -> list[tuple[str, str]]:
    """(label, value) lines: samples, a prompt as the model gets it, its length, batch, memory.

    Raises:
        UsageError, BrokenRow: something in model, data or arguments is wrong.
    """
    spec = job.recipe.model
    config = load_config(spec.path, trust_remote_code=spec.trust_remote_code)
    processor = load_processor(
        spec.path,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels,
        trust_remote_code=spec.trust_remote_code,
    )
    dataset = build_dataset(job.spec.data, spec, processor, with_completion=supervised)
    row = dataset[0]
    prompt = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    inputs = processor(images=row["images"], text=[prompt], return_tensors="pt")
    prompt_tokens = inputs["input_ids"].shape[1]
    answer = row["completion"][0]["content"] if supervised else None
    if supervised:
        completion_tokens = len(processor.tokenizer(answer)["input_ids"]) + 2
    else:
        completion_tokens = args.max_completion_length
    lora = build_lora(job)
    generates = not supervised and not args.use_vllm
    try:
        memory = estimate(
            config,
            lora,
            batch=args.per_device_train_batch_size,
            tokens=prompt_tokens + completion_tokens,
            generated_batch=args.per_device_train_batch_size * args.steps_per_generation if generates else 0,
            checkpointing=bool(args.gradient_checkpointing),
            dtype=torch.float32 if lora is None and args.deepspeed_plugin is None else None,  # as `load_for` does
        )
    except ValueError as error:
        raise UsageError(f"{job.where}.lora: {' '.join(str(error).split())}") from error
    trained = f"LoRA, {memory.trainable:,} of {memory.parameters:,} weights" if lora else f"all {memory.parameters:,}"
    lines = [
        ("data", f"{len(dataset):,} samples from {', '.join(job.spec.data.path)}"),
        ("prompt", f"{prompt_tokens} tokens: {_one_line(prompt)}"),
    ]
    if answer is not None:
        lines.append(("answer", _one_line(answer)))
    return [*lines, ("batch", _batch(args, supervised)), ("trained", trained), ("memory", str(memory))]


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
