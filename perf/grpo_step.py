"""What a GRPO step of Fovea costs over plain TRL, with the same model, data, rewards and rollouts, on one thread.

    python perf/grpo_step.py              # minutes; exits 1 when a claim falls short

Four trainers take turns step by step in one process: TRL's GRPOTrainer, Fovea's without credit, Fovea's with
attention-aware credit, and Fovea's with `model.share_images` (on by default; the others have it off, so that what it
saves does not hide what the rest costs). They start from the same weights and seed and keep their own random states,
so that they roll out the same completions; the order rotates. The figure is the median over the rounds of the ratio
of CPU seconds. (Wall time on a shared machine says more about its other users.)

The claims: at most 2 % without credit, at most 3 % with it, and at least a tenth saved by sharing images (it depends
on how large the pictures are against the text).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep.screens import example
from grounding.io import write_samples
from models.loading import save_policy
from models.tiny import build, train_tokenizer
from recipes.config import parse_recipe
from recipes.grpo import FoveaGRPOTrainer
from recipes.run_folder import jobs_of
from recipes.stage import STAGES

VARIANTS = ("trl", "fovea", "credit", "shared")
ALLOWED = {"fovea": 1.02, "credit": 1.03, "shared": 0.90}
ARGS = {
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": 40,
    "learning_rate": 1e-5,
    "gradient_checkpointing": False,
}


class Baton:
    """Lets one trainer at a time do a step: round by round, in an order that rotates."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue = [VARIANTS[(round_ + place) % 4] for round_ in range(4) for place in range(4)]
        self._at = 0

    def take(self, variant: str) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._queue[self._at % len(self._queue)] == variant)

    def pass_on(self) -> None:
        with self._condition:
            self._at += 1
            self._condition.notify_all()


class StepClock(TrainerCallback):
    """Takes the baton for each step and notes its CPU and wall seconds, from its rollouts to its update."""

    def __init__(self, variant: str, baton: Baton):
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self._variant, self._baton = variant, baton
        self._random = torch.get_rng_state()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._baton.take(self._variant)
        torch.set_rng_state(self._random)
        self._cpu, self._wall = time.thread_time(), time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.cpu.append(time.thread_time() - self._cpu)
        self.wall.append(time.perf_counter() - self._wall)
        self._random = torch.get_rng_state()
        self._baton.pass_on()


def prepare(folder: Path) -> tuple[Path, Path]:
    """A model of the embedded one's size, with random weights, and 64 screens."""
    torch.manual_seed(0)
    examples = [example(index, seed=0, split="train", difficulty=3) for index in range(64)]
    (folder / "data/images").mkdir(parents=True)
    for sample, image in examples:
        image.save(folder / "data" / sample.images[0].path)
    samples = [sample for sample, _ in examples]
    write_samples(folder / "data/train.jsonl", samples)
    tokenizer = train_tokenizer([f"{sample.instruction} {sample.thought}" for sample in samples])
    save_policy(folder / "model", *build(tokenizer))
    return folder / "model", folder / "data"


def make_trainer(variant: str, model: Path, data: Path, folder: Path, *, steps: int, strategy: str) -> GRPOTrainer:
    """A trainer for one uncounted step and `steps` more."""
    content = {
        "name": variant,
        "model": {
            "path": str(model),
            "dialect": "qwen3_vl",
            "image_first": False,
            "share_images": variant == "shared",
        },
        "data": str(data),
        "output": str(folder),
        "wandb": "disabled",
        "stages": [
            {
                "kind": "grpo",
                "args": {**ARGS, "max_steps": steps + 1, "save_strategy": "no"},
                "rewards": ["iou", "format"],
                "credit": {"strategy": strategy} if variant == "credit" else None,
            }
        ],
    }
    stage = STAGES.get("grpo")(jobs_of(parse_recipe(content))[0])
    trainer = stage.trainer(GRPOTrainer if variant == "trl" else FoveaGRPOTrainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def race(model: Path, data: Path, folder: Path, *, steps: int, strategy: str) -> dict[str, StepClock]:
    """Train all variants at once, a step each in turn."""
    baton = Baton()
    clocks, threads = {}, []
    for variant in VARIANTS:
        trainer = make_trainer(variant, model, data, folder, steps=steps, strategy=strategy)
        torch.manual_seed(0)
        clocks[variant] = StepClock(variant, baton)
        trainer.add_callback(clocks[variant])
        threads.append(threading.Thread(target=trainer.train, name=variant))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clocks


def quantiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each trainer (40)")
    parser.add_argument("--strategy", default="coupled_rhythm", help="of credit (coupled_rhythm)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    with tempfile.TemporaryDirectory() as temporary:
        model, data = prepare(Path(temporary))
        clocks = race(model, data, Path(temporary), steps=options.steps, strategy=options.strategy)
    cpu = {variant: clock.cpu[1:] for variant, clock in clocks.items()}
    wall = {variant: clock.wall[1:] for variant, clock in clocks.items()}

    print(f"{'trainer':<28} {'CPU s/step':>10} {'wall s/step':>11} {'ratio':>7}  {'quartiles':<15} allowed")
    missed = []
    titles = ("TRL", "Fovea", f"Fovea, {options.strategy}", "Fovea, images shared")
    for variant, title in zip(VARIANTS, titles, strict=True):
        line = f"{title:<28} {statistics.median(cpu[variant]):>10.3f} {statistics.median(wall[variant]):>11.3f}"
        if variant in ALLOWED:
            ratios = [one / plain for one, plain in zip(cpu[variant], cpu["trl"], strict=True)]
            ratio = statistics.median(ratios)
            low, high = quantiles(ratios)
            line += f" {ratio:>7.4f}  {f'{low:.3f} .. {high:.3f}':<15} {ALLOWED[variant]:.2f}"
            if ratio > ALLOWED[variant]:
                missed.append(f"{title}: {ratio:.4f}, allowed is {ALLOWED[variant]:.2f}")
        print(line)
    for miss in missed:
        print(f"FELL SHORT: {miss}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
