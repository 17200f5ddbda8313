"""Which loop pays? Recipes in which a model chooses its data, each against plain GRPO, on the embedded task.

    python perf/recipes.py --model runs/quickstart/0-sft/model               # everything; goes on where it stopped
    python perf/recipes.py --model runs/quickstart/0-sft/model --arm select --seed 0      # one arm of one seed
    python perf/recipes.py --table-only                                       # what there is so far
    python perf/recipes.py --table-only --out docs/recipes.jsonl              # of published runs

Every arm starts from one SFT checkpoint and may draw as many rollouts as plain GRPO does in `--steps` steps of 128
(`rollouts` says how many it drew; `vote` draws none before the test and 8 a question there, `distill` needs the model
of the plain arm of its seed as its teacher). Greedy clicks inside the target on held-out screens decide; arms are
paired by seed. In training, 100 other screens are asked every tenth of the steps (one sampled answer each): `reaches`
is the share of plain GRPO's rollouts after which an arm's accuracy there first is plain GRPO's last one of that seed,
censored at all its rollouts; only arms that are GRPO have it.

Resumable: a finished run is one JSON file under --out (arm--seed.json). Several processes with one --out share the
work. Exits 1 unless five seeds of every arm are there and one beats plain GRPO in `reaches`: at most 0.7, the 95 %
interval (10,000 paired bootstrap samples) below 1. `attention_sft`, attention on the target as a term of the SFT
loss, is named in the table as not built.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm
from transformers import set_seed

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness.cli import main as evaluate
from grounding.journal import read_journals
from perf.credit_strategies import paired_interval
from recipes.config import load_recipe
from recipes.runner import jobs_of, run_recipe

ROOT = Path(__file__).parents[1]
BATCH, GROUP, SEEDS = 128, 8, 5
REWARDS = [{"name": "iou"}, {"name": "click_in_box"}, {"name": "format", "weight": 0.2}]
RIGHT = [{"name": "click_in_box", "when": {"format": "ok"}}]
MISSING = ("attention_sft",)
RATIO = 0.7


def grpo(steps: int, **more: Any) -> dict[str, Any]:
    """The quickstart's GRPO stage over so many steps."""
    every = max(1, steps // 10)
    args = {
        "max_steps": max(1, steps),
        "per_device_train_batch_size": BATCH,
        "num_generations": GROUP,
        "max_completion_length": 48,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "eval_strategy": "steps",
        "eval_steps": every,
        "num_generations_eval": 1,
        "per_device_eval_batch_size": 100,
        **more.pop("args", {}),
    }
    stage = {"kind": "grpo", "lora": {"r": 16, "lora_alpha": 32}, "rewards": REWARDS, "args": args}
    return {**stage, "eval": {"split": "val", "limit": 100}, **more}


def drawing(answers: int = GROUP) -> dict[str, Any]:
    """Arguments of a stage that draws rollouts itself."""
    return {"num_generations": answers, "generation_batch_size": 32, "max_completion_length": 48}


def supervised(steps: int) -> dict[str, Any]:
    args = {"max_steps": max(1, steps), "per_device_train_batch_size": 32, "learning_rate": 1e-3}
    return {
        **args,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "save_strategy": "no",
        "gradient_checkpointing": False,
    }


def rising(steps: int) -> list[dict[str, Any]]:
    """Thresholds of .85, .95 and .99, a third of the steps each."""
    first, second = steps // 3, 2 * steps // 3
    knots = [[0, 0.85], [first, 0.85], [first + 1, 0.95], [second, 0.95], [second + 1, 0.99]]
    return [{"name": "iou_above", "schedule": {"threshold": knots}}, *REWARDS[1:]]


def weighted(form: str) -> list[dict[str, Any]]:
    return [{"name": "difficulty_weighted_iou", "params": {"form": form}}, *REWARDS[1:]]


def arms(steps: int, teacher: str) -> dict[str, list[dict[str, Any]]]:
    """Stages of each arm. All draw at most `steps` x 128 rollouts."""
    rollouts = steps * BATCH
    questions = rollouts // GROUP
    half = max(1, steps // 2)
    chosen = max(GROUP, rollouts // 4 // 4)  # a quarter of the rollouts chooses, four a question
    unscaled = {"scale_rewards": "none"}
    filtering = {"attention": True, "rules": False, "batch_size": 64, "max_completion_length": 48}
    rejection = {**drawing(), **supervised(max(1, steps // 4)), "min_reward": 1.9, "keep": 2}
    preferring = {**drawing(), **supervised(max(1, steps // 4)), "margin": 0.5, "learning_rate": 1e-4}
    distilling = {**supervised(steps), "per_device_train_batch_size": BATCH, "max_completion_length": 48}
    lora = {"lora": {"r": 16, "lora_alpha": 32}}
    selecting = {**drawing(4), "pass_at": 1.0}
    return {
        "grpo": [grpo(steps)],
        # 96 + 32 rollouts at most
        "dynamic": [grpo(steps, sampling={"share": 1.0, "extra": 4}, args={"per_device_train_batch_size": 96})],
        "difficulty": [grpo(steps, sampling={})],
        "unscaled": [grpo(steps, args=unscaled)],  # what the weights need, by itself
        "weight_power": [grpo(steps, rewards=weighted("power"), args=unscaled)],
        "weight_exp": [grpo(steps, rewards=weighted("exp"), args=unscaled)],
        "rising": [grpo(steps, rewards=rising(steps))],
        "rejection": [
            {"kind": "rejection", **lora, "data": {"limit": questions}, "rewards": REWARDS, "args": rejection}
        ],
        "select": [
            {"kind": "select", "data": {"limit": chosen}, "rewards": RIGHT, "args": selecting},
            grpo(steps - steps // 4, data={"kept": True}),
        ],
        "rounds": [{"repeat": 2, "stages": [{"kind": "filter", "args": filtering}, grpo(half, data={"kept": True})]}],
        "vote": [],
        "test_time": [grpo(steps, data={"split": "test"}, rewards=["region_consistency", *REWARDS[2:]])],
        "dpo": [
            {"repeat": 2, "stages": [
                {"kind": "dpo", **lora, "data": {"limit": questions // 2}, "rewards": REWARDS, "args": preferring}
            ]}
        ],
        "distill": [{"kind": "distill", **lora, "args": {**distilling, "teacher_model_name_or_path": teacher}}],
    }  # fmt: skip


NAMES = tuple(arms(60, ""))


def run_one(args: argparse.Namespace, arm: str, seed: int) -> None:
    """Train, evaluate, and write the run's JSON file (atomically)."""
    folder = args.out / "work" / f"{arm}--{seed}"
    teacher = args.out / "work" / f"grpo--{seed}" / "run" / "final"
    if arm == "distill" and not teacher.exists():
        raise SystemExit(f"distill, seed {seed}: its teacher is the plain arm's model; run --arm grpo --seed {seed}")
    stages = copy.deepcopy(arms(args.steps, str(teacher))[arm])
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts over: half a run is no run
    folder.mkdir(parents=True)
    set_seed(seed)  # also what happens before the trainer sets its own, the adapter's weights among it
    model, curve, drawn = args.model, [], 0
    with (folder / "log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        if stages:
            recipe = load_recipe(_recipe(args, stages, seed, folder))
            run_recipe(recipe)
            model = folder / "run" / "final"
            curve, drawn = _course(recipe)
        code = evaluate(_evaluation(args, folder, model, arm))
    if code:
        raise SystemExit(f"the evaluation of {arm}, seed {seed}, failed with {code}; see {folder / 'log'}")
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    result = {
        "arm": arm,
        "seed": seed,
        "steps": args.steps,
        "items": args.items,
        "rollouts": drawn,
        "accuracy": float(metrics["accuracy"]),
        "curve": curve,
    }
    draft = args.out / f"{arm}--{seed}.json.part"
    draft.write_text(json.dumps(result))
    draft.rename(args.out / f"{arm}--{seed}.json")
    if arm != "grpo" and not args.keep:  # the plain arm's model teaches
        shutil.rmtree(folder)


def _recipe(args: argparse.Namespace, stages: list[dict[str, Any]], seed: int, folder: Path) -> Path:
    model = {"path": str(args.model), "dialect": "fovea", "grammar": "think", "image_first": False}
    content = {"name": "run", "model": model, "data": str(args.data), "stages": stages, "seed": seed}
    content |= {"output": str(folder), "wandb": "disabled"}
    path = folder / "recipe.yaml"
    OmegaConf.save(OmegaConf.create(content), path)
    return path


def _course(recipe: Any) -> tuple[list[list[float]], int]:
    """[rollouts so far, accuracy on the other screens] of GRPO's evaluations, and the rollouts of all stages."""
    curve, drawn = [], 0
    for job in jobs_of(recipe):
        rows = [
            row["answers"] if "answers" in row else [0] * GROUP
            for row in read_journals(job.folder, "rollouts-*.jsonl")
        ]
        drawn += sum(map(len, rows))
        if job.spec.kind == "rejection":
            drawn += GROUP * sum(1 for _ in read_journals(job.folder, "kept-*.jsonl"))
        if not job.metrics.exists():
            continue
        batch = int(job.spec.args["per_device_train_batch_size"])
        each = {"grpo": batch, "distill": batch}.get(job.spec.kind, 0)
        before, extra, last = drawn, 0.0, 0
        for line in map(json.loads, job.metrics.read_text().splitlines()):
            extra += line.get("sampling/extra_rollouts", 0.0)
            last = max(last, int(line["step"]))
            if "eval_rewards/click_in_box/mean" in line:
                curve.append([before + each * line["step"] + extra, line["eval_rewards/click_in_box/mean"]])
        drawn += round(each * last + extra)
    return curve, drawn


def _evaluation(args: argparse.Namespace, folder: Path, model: Path, arm: str) -> list[str]:
    options = ["--model", str(model), "--benchmark", "screens", "--data", str(args.data), "--limit", str(args.items)]
    options += ["--max-new-tokens", "64", "--batch-size", "100", "--out", str(folder / "eval")]
    return [*options, *(["--method", "voting"] if arm == "vote" else [])]


def reaches(own: dict[str, Any], plain: dict[str, Any]) -> float:
    """Share of plain GRPO's rollouts until the accuracy it ends with; not a number without a course."""
    if not own["curve"] or not plain["curve"]:
        return float("nan")
    goal, every = plain["curve"][-1][1], plain["curve"][-1][0]
    first = next((drawn for drawn, accuracy in own["curve"] if accuracy >= goal), every)
    return min(first, every) / every


def table(results: dict[tuple[str, int], dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The table's lines, and what falls short."""
    lines = [f"{'arm':14} seeds {'rollouts':>9} {'accuracy':>9} {'- grpo (95 %)':>26} {'reaches (95 %)':>26}"]
    short, best = [], False
    plain = {seed: result for (arm, seed), result in results.items() if arm == "grpo"}
    for arm in NAMES:
        every = [result for (name, _), result in results.items() if name == arm]
        if not every:
            lines.append(f"{arm:14} {0:5d} {'not run':>9}")
            short.append(f"{arm}: not run")
            continue
        drawn, accuracy = (np.mean([one[key] for one in every]) for key in ("rollouts", "accuracy"))
        own = [result for result in every if result["seed"] in plain]
        seeds = [result["seed"] for result in own]
        if len(seeds) < SEEDS:
            short.append(f"{arm}: {len(seeds)} of {SEEDS} paired seeds")
        if not seeds:
            lines.append(f"{arm:14} {len(every):5d} {drawn:9.0f} {accuracy:9.3f}   grpo of its seeds is not run")
            continue
        gains = np.array([one["accuracy"] - plain[seed]["accuracy"] for one, seed in zip(own, seeds, strict=True)])
        ratios = np.array([reaches(one, plain[seed]) for one, seed in zip(own, seeds, strict=True)])
        cells = ["" if arm == "grpo" else _cell(gains), _cell(ratios) if np.isfinite(ratios).all() else ""]
        lines.append(f"{arm:14} {len(every):5d} {drawn:9.0f} {accuracy:9.3f} {cells[0]:>26} {cells[1]:>26}")
        if arm != "grpo" and len(seeds) >= SEEDS and np.isfinite(ratios).all():
            best |= ratios.mean() <= RATIO and paired_interval(ratios, 10_000)[1] < 1
    lines += [f"{arm:14} {'-':>5} not built" for arm in MISSING]
    if not best:
        short.append(f"no arm reaches plain GRPO's accuracy within {RATIO:g} of its rollouts, the interval below 1")
    return lines, short


def _cell(values: np.ndarray) -> str:
    if len(values) < 2:  # no interval
        return f"{values.mean():+.3f}"
    low, high = paired_interval(values, 10_000)
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def load(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Runs by arm and seed, from a folder of theirs or a file with one a line."""
    if out.suffix == ".jsonl":
        texts = out.read_text(encoding="utf-8").splitlines()
    else:
        texts = [path.read_text(encoding="utf-8") for path in sorted(out.glob("*--*.json"))]
    return {(result["arm"], result["seed"]): result for result in map(json.loads, texts)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the SFT checkpoint every run starts from")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data/screens", help="data set folder: train, val and test"
    )
    parser.add_argument("--arm", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--seed", type=int, nargs="*", default=list(range(SEEDS)))
    parser.add_argument("--steps", type=int, default=60, help="of plain GRPO (60)")
    parser.add_argument("--items", type=int, default=500, help="held-out screens (500)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/recipes")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--table-only", action="store_true")
    args = parser.parse_args()
    if not args.table_only:
        if args.model is None:
            parser.error("--model is required: the SFT checkpoint every run starts from")
        args.out.mkdir(parents=True, exist_ok=True)
        done = load(args.out)
        order = sorted(args.arm, key=NAMES.index)  # the teacher first
        for arm, seed in tqdm([(a, s) for s in args.seed for a in order if (a, s) not in done], desc="runs"):
            with (args.out / f"{arm}--{seed}.lock").open("w") as lock:
                try:  # the lock goes when its process ends, however it does
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # another process is at it
                if not (args.out / f"{arm}--{seed}.json").exists():
                    run_one(args, arm, seed)
    results = load(args.out)
    if len({(one["steps"], one["items"]) for one in results.values()}) > 1:
        print(f"{args.out}: runs of different --steps or --items do not compare; use one --out for each")
        return 1
    lines, short = table(results)
    print("\n".join([*lines, *(f"FALLS SHORT: {what}" for what in short)]))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
