"""What a GRPO step of Fovea costs over plain TRL, with the same model, data, rewards and rollouts, on one thread.

    python perf/grpo_step.py                                  # minutes; exits 1 when a claim falls short
    python perf/grpo_step.py --scale gpu --steps 20           # 8 layers, 1024 wide, 4K tokens, on the GPU

Four trainers take turns step by step in one process: TRL's GRPOTrainer, Fovea's without credit, Fovea's with
attention-aware credit, and Fovea's with `model.share_images` (on by default; the others have it off, so that what it
saves does not hide what the rest costs). They start from the same weights and seed and keep their own random states,
so that they roll out the same completions; the order rotates. The figure is the median over the rounds of the ratio
of CPU seconds (wall time on a shared machine says more about its other users); on a GPU, of wall seconds with the
device's queue empty at both ends.

The claims: at most 2 % without credit, at most 3 % with it, 1 % on a GPU, and at least a tenth saved by sharing
images (it depends on how large the pictures are against the text).
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
from dataclasses import dataclass
from datetime import date
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

CUDA = torch.cuda.is_available()
VARIANTS = ("trl", "fovea", "credit", "shared")


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        side: of a screen in pixels; every 16 x 16 of them are an image token.
        completion: tokens of a response at most, which random weights nearly always use.
        rollouts: of a step, eight to a question.
        allowed: the largest ratio to TRL's step per variant.
    """

    hidden: int
    layers: int
    side: int
    completion: int
    rollouts: int
    allowed: dict[str, float]


SCALES = {
    "laptop": Scale(128, 4, 96, 40, 32, {"fovea": 1.02, "credit": 1.03, "shared": 0.90}),
    "gpu": Scale(1024, 8, 960, 384, 16, {"fovea": 1.02, "credit": 1.01, "shared": 0.90}),
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
    """Takes the baton for each step and notes its CPU and wall seconds, from its rollouts to its update.

    The thread's CPU seconds say nothing about what a GPU does; there both are wall seconds.
    """

    def __init__(self, variant: str, baton: Baton):
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self._variant, self._baton = variant, baton
        self._random = _random_states()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._baton.take(self._variant)
        torch.set_rng_state(self._random[0])
        if CUDA:
            torch.cuda.set_rng_state(self._random[1])
        self._cpu, self._wall = _now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        cpu, wall = _now()
        self.cpu.append(cpu - self._cpu)
        self.wall.append(wall - self._wall)
        self._random = _random_states()
        self._baton.pass_on()


def _random_states() -> tuple[torch.Tensor, ...]:
    return (torch.get_rng_state(), torch.cuda.get_rng_state()) if CUDA else (torch.get_rng_state(),)


def _now() -> tuple[float, float]:
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter(), time.perf_counter()
    return time.thread_time(), time.perf_counter()


def prepare(folder: Path, scale: Scale) -> tuple[Path, Path]:
    """A model with random weights (at the laptop's scale of the embedded one's size), and 64 screens."""
    torch.manual_seed(0)
    examples = [example(index, seed=0, split="train", difficulty=3, size=scale.side) for index in range(64)]
    (folder / "data/images").mkdir(parents=True)
    for sample, image in examples:
        image.save(folder / "data" / sample.images[0].path)
    samples = [sample for sample, _ in examples]
    write_samples(folder / "data/train.jsonl", samples)
    tokenizer = train_tokenizer([f"{sample.instruction} {sample.thought}" for sample in samples])
    model, processor = build(tokenizer, hidden=scale.hidden, layers=scale.layers)
    processor.image_processor.size["longest_edge"] = scale.side**2
    save_policy(folder / "model", model, processor)
    return folder / "model", folder / "data"


def make_trainer(variant: str, model: Path, data: Path, folder: Path, options: argparse.Namespace) -> GRPOTrainer:
    """A trainer for one uncounted step and `--steps` more."""
    scale = SCALES[options.scale]
    args = {
        "max_steps": options.steps + 1,
        "per_device_train_batch_size": scale.rollouts,
        "num_generations": 8,
        "max_completion_length": scale.completion,
        "learning_rate": 1e-5,
        "gradient_checkpointing": False,
        "bf16": CUDA,
        "save_strategy": "no",
    }
    content = {
        "name": variant,
        "model": {
            "path": str(model),
            "dialect": "qwen3_vl",
            "image_first": False,
            "share_images": variant == "shared",
            "dtype": "bfloat16" if CUDA else "float32",
        },
        "data": str(data),
        "output": str(folder),
        "wandb": "disabled",
        "stages": [
            {
                "kind": "grpo",
                "args": args,
                "rewards": ["iou", "format"],
                "credit": {"strategy": options.strategy} if variant == "credit" else None,
            }
        ],
    }
    stage = STAGES.get("grpo")(jobs_of(parse_recipe(content))[0])
    trainer = stage.trainer(GRPOTrainer if variant == "trl" else FoveaGRPOTrainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def race(model: Path, data: Path, folder: Path, options: argparse.Namespace) -> dict[str, StepClock]:
    """Train all variants at once, a step each in turn."""
    baton = Baton()
    clocks, threads = {}, []
    for variant in VARIANTS:
        trainer = make_trainer(variant, model, data, folder, options)
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
    parser.add_argument("--scale", choices=SCALES, default="laptop", help="of model and screens (laptop)")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each trainer (40)")
    parser.add_argument("--strategy", default="coupled_rhythm", help="of credit (coupled_rhythm)")
    options = parser.parse_args()
    if options.scale == "gpu" and not CUDA:
        parser.error("--scale gpu needs a CUDA device")
    if not CUDA:
        torch.set_num_threads(1)
    disable_progress_bar()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    with tempfile.TemporaryDirectory() as temporary:
        model, data = prepare(Path(temporary), SCALES[options.scale])
        clocks = race(model, data, Path(temporary), options)
    cpu = {variant: clock.cpu[1:] for variant, clock in clocks.items()}
    wall = {variant: clock.wall[1:] for variant, clock in clocks.items()}

    allowed = SCALES[options.scale].allowed
    device = torch.cuda.get_device_name() if CUDA else "one CPU thread"
    print(f"{options.scale}, {date.today()}, {device}, torch {torch.__version__}")
    print(f"{'trainer':<28} {'CPU s/step':>10} {'wall s/step':>11} {'ratio':>7}  {'quartiles':<15} allowed")
    missed = []
    titles = ("TRL", "Fovea", f"Fovea, {options.strategy}", "Fovea, images shared")
    for variant, title in zip(VARIANTS, titles, strict=True):
        line = f"{title:<28} {statistics.median(cpu[variant]):>10.3f} {statistics.median(wall[variant]):>11.3f}"
        if variant in allowed:
            ratios = [one / plain for one, plain in zip(cpu[variant], cpu["trl"], strict=True)]
            ratio = statistics.median(ratios)
            low, high = quantiles(ratios)
            line += f" {ratio:>7.4f}  {f'{low:.3f} .. {high:.3f}':<15} {allowed[variant]:.2f}"
            if ratio > allowed[variant]:
                missed.append(f"{title}: {ratio:.4f}, allowed is {allowed[variant]:.2f}")
        print(line)
    for miss in missed:
        print(f"FELL SHORT: {miss}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
