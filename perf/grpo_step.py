"""What a GRPO step of Fovea costs against plain TRL's: the same model, data, rewards and rollouts, on one thread.

    python perf/grpo_step.py                            # the quickstart's step; exits 1 when a claim falls short
    python perf/grpo_step.py --scale real --steps 20    # 1,024 image tokens, 100 of answer; hours on a busy machine
    python perf/grpo_step.py --scale gpu --steps 20     # 8 layers, 1024 wide, 4K tokens, on the GPU

Trainers take turns step by step in one process: TRL's GRPOTrainer; Fovea's that shares nothing, without and with
attention-aware credit; one that encodes a picture once for all rows (`model.share_images`); one that also runs a
prompt once for all its rollouts (`model.share_prompts`, both are on by default); and that one with credit. They start
from the same weights and seed and keep their own random states, so that they roll out the same completions, which is
checked; the order rotates. Then the training pass by itself, forward and backward, and an evaluation step with one
rollout of a prompt, where there is nothing to share.

The figure is the median over the rounds of the ratio of CPU seconds (wall time on a shared machine says more about
its other users); on a GPU, of wall seconds with the device's queue empty at both ends. Peak memory is that of the
tensors which the pass holds at once, beyond weights and batch.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
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

from data_prep.screens.generated import example
from grounding.io import write_samples
from models.loading import save_policy
from models.tiny import build, train_tokenizer
from recipes.config import parse_recipe
from recipes.grpo import FoveaGRPOTrainer
from recipes.runner import jobs_of
from recipes.stage import STAGES

CUDA = torch.cuda.is_available()
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Variant:
    """A trainer: what it is called, and what it shares."""

    title: str
    images: bool = False
    prompts: bool = False
    credit: bool = False


VARIANTS = {
    "trl": Variant("TRL"),
    "fovea": Variant("Fovea, nothing shared"),
    "credit": Variant("the same with credit", credit=True),
    "images": Variant("Fovea, images shared", images=True),
    "prompts": Variant("Fovea, prompts shared too", images=True, prompts=True),
    "credited": Variant("the same with credit", images=True, prompts=True, credit=True),
}
AGAINST = {"credited": "prompts"}  # everything else is compared with TRL's trainer


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        hidden, layers: of a model with random weights; 0 is the embedded model.
        side: of a screen in pixels; every 16 x 16 of them are an image token.
        completion: tokens of a response at most, which random weights nearly always use.
        rollouts: of a step, eight to a question.
        allowed: the largest ratio per variant, and of the parts.
    """

    hidden: int
    layers: int
    side: int
    completion: int
    rollouts: int
    allowed: dict[str, float]


SHARED = {"fovea": 1.02, "credit": 1.03, "images": 0.95, "credited": 1.04, "one rollout": 1.01}
SCALES = {
    "quickstart": Scale(0, 0, 128, 64, 128, {**SHARED, "prompts": 0.45, "pass": 0.45, "memory": 0.45}),
    "real": Scale(512, 4, 512, 100, 8, {**SHARED, "prompts": 0.32, "pass": 0.20, "memory": 0.30}),
    "gpu": Scale(1024, 8, 960, 384, 16, {**SHARED, "credit": 1.01, "prompts": 0.45, "pass": 0.45, "memory": 0.45}),
}


class Baton:
    """Lets one trainer at a time do a step: round by round, in an order that rotates."""

    def __init__(self, variants: list[str]) -> None:
        self._condition = threading.Condition()
        count = len(variants)
        self._queue = [variants[(round_ + place) % count] for round_ in range(count) for place in range(count)]
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

    def __init__(self, variant: str, baton: Baton, trainer: GRPOTrainer):
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.rollouts: list[list[list[int]]] = []
        self._variant, self._baton, self._trainer = variant, baton, trainer
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
        self.rollouts.append([batch["completion_ids"].tolist() for batch in self._trainer._buffered_inputs])
        self._baton.pass_on()


def _random_states() -> tuple[torch.Tensor, ...]:
    return (torch.get_rng_state(), torch.cuda.get_rng_state()) if CUDA else (torch.get_rng_state(),)


def _now() -> tuple[float, float]:
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter(), time.perf_counter()
    return time.thread_time(), time.perf_counter()


def prepare(folder: Path, scale: Scale) -> tuple[Path, Path]:
    """The model, and 64 screens."""
    torch.manual_seed(0)
    examples = [example(index, seed=0, split="train", difficulty=3, size=scale.side) for index in range(64)]
    (folder / "data/images").mkdir(parents=True)
    for sample, image in examples:
        image.save(folder / "data" / sample.images[0].path)
    samples = [sample for sample, _ in examples]
    write_samples(folder / "data/train.jsonl", samples)
    if not scale.hidden:
        return ROOT / "assets/fovea-tiny", folder / "data"
    tokenizer = train_tokenizer([f"{sample.instruction} {sample.thought}" for sample in samples])
    model, processor = build(tokenizer, hidden=scale.hidden, layers=scale.layers)
    processor.image_processor.size["longest_edge"] = scale.side**2
    save_policy(folder / "model", model, processor)
    return folder / "model", folder / "data"


def make_trainer(variant: str, model: Path, data: Path, folder: Path, options: argparse.Namespace) -> GRPOTrainer:
    """A trainer for one uncounted step and `--steps` more."""
    scale, shown = SCALES[options.scale], VARIANTS[variant]
    args = {
        "max_steps": options.steps + 1,
        "per_device_train_batch_size": scale.rollouts,
        "per_device_eval_batch_size": 16,
        "num_generations": 8,
        "num_generations_eval": 1,
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
            "dialect": "qwen3_vl" if scale.hidden else "fovea",
            "image_first": False,
            "share_images": shown.images,
            "share_prompts": shown.prompts,
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
                "credit": {"strategy": options.strategy} if shown.credit else None,
            }
        ],
    }
    stage = STAGES.get("grpo")(jobs_of(parse_recipe(content))[0])
    trainer = stage.trainer(GRPOTrainer if variant == "trl" else FoveaGRPOTrainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def race(trainers: dict[str, GRPOTrainer]) -> dict[str, StepClock]:
    """Train all variants at once, a step each in turn."""
    baton = Baton(list(trainers))
    clocks, threads = {}, []
    for variant, trainer in trainers.items():
        torch.manual_seed(0)
        clocks[variant] = StepClock(variant, baton, trainer)
        trainer.add_callback(clocks[variant])
        threads.append(threading.Thread(target=trainer.train, name=variant))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clocks


def seconds(run: Callable[[], Any]) -> float:
    before, _ = _now()
    run()
    return _now()[0] - before


def one_rollout(trainers: dict[str, GRPOTrainer], against: str, options: argparse.Namespace) -> list[float]:
    """Ratios of an evaluation step with one rollout of each prompt, prompts shared to the variant `against`."""
    rows = [trainers["trl"].train_dataset[index] for index in range(16)]

    def evaluate(trainer: GRPOTrainer) -> float:
        trainer.model.eval()
        torch.manual_seed(0)
        return seconds(lambda: trainer.prediction_step(trainer.model, rows, prediction_loss_only=True))

    pair = trainers[against], trainers["prompts"]
    ratios = []
    for index in range(options.steps + 2):
        first, second = (evaluate(trainer) for trainer in (pair if index % 2 else pair[::-1]))
        ratios.append(second / first if index % 2 else first / second)
    return ratios[2:]


def training_pass(trainer: GRPOTrainer, batch: dict[str, Any]) -> None:
    """Forward and backward over a batch of rollouts."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, dict(batch)).backward()
    trainer.model.zero_grad(set_to_none=True)


def passes(trainers: dict[str, GRPOTrainer], batch: dict[str, Any], options: argparse.Namespace) -> list[float]:
    """Ratios of the training pass with shared prompts to TRL's."""
    ratios = []
    for _ in range(options.steps + 1):
        plain, shared = (seconds(lambda t=trainers[name]: training_pass(t, batch)) for name in ("trl", "prompts"))
        ratios.append(shared / plain)
    return ratios[1:]


def _peak(variant: str, places: tuple[Path, Path, Path], batch: Path, options: argparse.Namespace, out: Any) -> None:
    quiet()
    trainer = make_trainer(variant, *places, options)
    given = torch.load(batch)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training_pass(trainer, given)
        out.put((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    out.put(most_held(lambda: training_pass(trainer, given)))


def most_held(run: Callable[[], None]) -> float:
    """MiB of tensors that a call holds at once on the CPU at most, beyond those before it, as PyTorch's allocator
    counts; what the system gives a process for them differs by a tenth from one process to the next."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events)) / 2**20


def peak(variant: str, places: tuple[Path, Path, Path], batch: Path, options: argparse.Namespace) -> float:
    """MiB that a training pass adds to a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    out = context.SimpleQueue()
    process = context.Process(target=_peak, args=(variant, places, batch, options, out))
    process.start()
    process.join()
    return out.get()


def quiet() -> None:
    if not CUDA:
        torch.set_num_threads(1)
    disable_progress_bar()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


class Table:
    """Prints a line per claim and remembers those that fall short."""

    def __init__(self, allowed: dict[str, float]):
        self._allowed = allowed
        self.missed: list[str] = []

    def ratios(self, name: str, title: str, numbers: str, ratios: list[float]) -> None:
        middle = statistics.median(ratios)
        spread = ""
        if len(ratios) > 1:
            low, _, high = statistics.quantiles(ratios, n=4)
            spread = f"{low:.3f} .. {high:.3f}"
        print(f"{title:<28} {numbers} {middle:>7.4f}  {spread:<15} {self._allowed[name]:.2f}", flush=True)
        if middle > self._allowed[name]:
            self.missed.append(f"{title}: {middle:.4f}, allowed is {self._allowed[name]:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="quickstart", help="of model and screens (quickstart)")
    parser.add_argument("--steps", type=int, default=20, help="counted steps of each trainer (20)")
    parser.add_argument("--strategy", default="coupled_rhythm", help="of credit (coupled_rhythm)")
    parser.add_argument(
        "--arms", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="trainers that take turns (all)"
    )
    parser.add_argument(
        "--parts", nargs="*", choices=("pass", "one"), default=["pass", "one"],
        help="besides the steps and the peak memory: the training pass, one rollout of a prompt (both)",
    )  # fmt: skip
    options = parser.parse_args()
    if options.scale == "gpu" and not CUDA:
        parser.error("--scale gpu needs a CUDA device")
    quiet()
    arms = [name for name in VARIANTS if name in {"trl", "prompts", *options.arms}]
    table = Table(SCALES[options.scale].allowed)
    device = torch.cuda.get_device_name() if CUDA else "one CPU thread"
    print(f"{options.scale}, {date.today()}, {device}, torch {torch.__version__}")
    print(f"{'trainer':<28} {'CPU s/step':>10} {'wall s/step':>11} {'ratio':>7}  {'quartiles':<15} allowed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        places = (*prepare(folder, SCALES[options.scale]), folder)
        trainers = {variant: make_trainer(variant, *places, options) for variant in arms}
        clocks = race(trainers)
        for variant, clock in clocks.items():
            cpu, wall = clock.cpu[1:], clock.wall[1:]
            numbers = f"{statistics.median(cpu):>10.3f} {statistics.median(wall):>11.3f}"
            base = AGAINST.get(variant, "trl")
            if variant == "trl":
                print(f"{VARIANTS[variant].title:<28} {numbers}", flush=True)
            elif base in clocks:
                ratios = [own / other for own, other in zip(cpu, clocks[base].cpu[1:], strict=True)]
                table.ratios(variant, VARIANTS[variant].title, numbers, ratios)
            if sorted(clock.rollouts[0][0]) != sorted(clocks["trl"].rollouts[0][0]):
                table.missed.append(f"{VARIANTS[variant].title}: other rollouts than TRL's in the first step")
        blank = " " * 22
        batch = trainers["trl"]._buffered_inputs[0]
        if "pass" in options.parts:
            table.ratios("pass", "training pass, prompts shared", blank[1:], passes(trainers, batch, options))
        for against in (name for name in ("trl", "images") if name in trainers and "one" in options.parts):
            title = f"one rollout, against {against}"
            table.ratios("one rollout", title, blank, one_rollout(trainers, against, options))
        del trainers, clocks
        torch.save(batch, folder / "batch.pt")
        plain, shared = (peak(name, places, folder / "batch.pt", options) for name in ("trl", "prompts"))
        table.ratios("memory", "peak memory of the pass", f"{shared:>8.0f} of {plain:>6.0f} MiB", [shared / plain])
    for miss in table.missed:
        print(f"FELL SHORT: {miss}")
    return bool(table.missed)


if __name__ == "__main__":
    sys.exit(main())
