"""GRPO on screens drawn here, in one file: read it from top to bottom, then read `recipes/grpo.py`.

    python -m recipes.minimal --steps 30

The embedded model of two million parameters is asked for boxes on drawn screens of a size it never saw. Each of eight
answers to a question earns its IoU and a little for the right format; TRL makes advantages and gradients of them. How
often the middle of the box lies inside the target is printed before and after. Minutes on two CPU cores.

Left out: the SFT cold start, stages, checkpoints, LoRA, several GPUs (`docs/training.md`); data sets on disk
(`docs/data.md`); credit per token (`docs/credit.md`); benchmarks (`docs/evaluation.md`); reports (`docs/reports.md`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig

from data_prep.screens.generated import example
from grounding.decoding import Decoder
from models.loading import SeenSizes, load_policy
from models.profile import read_profile
from models.prompting import encode, messages, prompt_text, question
from models.sampling import generation_config
from recipes.grpo import FoveaGRPOTrainer
from rewards.compose import build_rewards, read_specs, weights

MODEL = Path(__file__).parents[1] / "assets" / "fovea-tiny"
REWARDS = read_specs([{"name": "iou", "weight": 1.0}, {"name": "format", "weight": 0.2}])
MAX_NEW_TOKENS = 64


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    """Train; print and return the accuracy before and after, each in [0, 1]."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps (30)")
    parser.add_argument("--questions", type=int, default=16, help="questions a step, eight answers each (16)")
    parser.add_argument("--test-screens", type=int, default=100, help="screens the accuracy is measured on (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the screens and the answers (0)")
    options = parser.parse_args(argv)

    # The policy, and how it is asked
    model, processor = load_policy(MODEL, dtype=torch.float32)
    profile = read_profile(str(MODEL))
    seen = SeenSizes(processor)

    # Questions about drawn screens: rows as TRL takes them, with the columns that the rewards read
    def row(index: int, split: str) -> dict[str, Any]:
        sample, image = example(index, seed=options.seed, split=split, difficulty=3, size=128)
        sizes = seen.of(sample.images)
        text = question(profile, sample.question, sample.answer_kind, sizes)
        return {
            "prompt": messages(text, 1, image_first=profile.image_first, system=profile.system),
            "images": [image],
            "sample": sample,
            "sizes": sizes,
            "answer_kind": sample.answer_kind,
        }

    def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
        return {name: [row[name] for row in rows] for name in rows[0]}

    # Accuracy: one greedy answer a screen, scored by the reward that is 1 where the click lies inside the target
    decoder = Decoder.of(processor, model.generation_config.eos_token_id, profile.grammar)
    (click_in_box,) = build_rewards(["click_in_box"], profile.dialect, profile.grammar)
    test = columns([row(index, "test") for index in range(options.test_screens)])

    def accuracy() -> float:
        model.eval()
        inputs = encode(processor, [prompt_text(processor, chat) for chat in test["prompt"]], test["images"])
        greedy = generation_config(model, max_new_tokens=MAX_NEW_TOKENS, temperature=0)
        with torch.inference_mode():
            answers = model.generate(**inputs.to(model.device), generation_config=greedy)
        texts = [decoder(ids) for ids in answers[:, inputs["input_ids"].shape[1] :].tolist()]
        return fmean(click_in_box(test["prompt"], texts, **test))

    # GRPO: the rewards of eight answers to a question, less their mean, are the advantages
    with tempfile.TemporaryDirectory() as folder:
        trainer = FoveaGRPOTrainer(
            model=model,
            processing_class=processor,
            reward_funcs=build_rewards(REWARDS, profile.dialect, profile.grammar),
            args=GRPOConfig(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=8 * options.questions,
                num_generations=8,
                max_completion_length=MAX_NEW_TOKENS,
                learning_rate=2e-4,
                reward_weights=weights(REWARDS),
                chat_template_kwargs={"processor_kwargs": {"add_special_tokens": False}},  # the template writes them
                bf16=torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
                seed=options.seed,
            ),
            train_dataset=Dataset.from_dict({"index": range(options.steps * options.questions)}).with_transform(
                lambda batch: columns([row(index, "train") for index in batch["index"]])
            ),
            dialect=profile.dialect,
            grammar=profile.grammar,
        )
        before = accuracy()
        trainer.train()
    after = accuracy()
    print(f"clicks inside the target: {before:.1%} before, {after:.1%} after {options.steps} steps")
    return before, after


if __name__ == "__main__":
    main()
