"""Which loop pays? Recipes in which a model chooses its data, each against plain GRPO, on the embedded task.

    python perf/recipes.py --publish docs/runs/recipes.jsonl      # five seeds of every arm; goes on where it stopped
    python perf/recipes.py --arm grpo select --seed 0             # some arms of one seed
    python perf/recipes.py --small --out runs/recipes_small       # that everything runs: figures without meaning
    python perf/recipes.py --table-only --out docs/runs/recipes.jsonl      # the table of published runs

The questions are what such loops are made for, and what a flat set of questions would hide: three of four are screens
with a single thing on them, which the model finds already; the fourth is a larger and fuller screen, and only these
teach. The reward is right or wrong, so that a group may be without spread (with an IoU or a format in the sum next to
none is). All arms of a seed start from one short SFT on larger screens, trained once, and may draw as many rollouts
as plain GRPO does in `--steps` steps of 64; what selecting, filtering and drawing pairs cost counts (`vote` draws
none before the test and 8 a question there; `distill` has the model of the plain arm of its seed as its teacher,
whose rollouts do not count). Arms are paired by seed. The attention filter of `rounds` drops wrong labels, of which
there are none here: on 24 screens it kept all, so that arm shows what it costs. `again` is plain GRPO once more with
other draws: what it differs by is chance.

Two measures. Greedy clicks on held-out screens at the end, larger ones (`accuracy`) and those with a single thing
(`easy`). `steps`: in training, other larger screens are asked every sixteenth of the steps, one sampled answer each;
curves are means of three such points; the goal is the end of plain GRPO's curve of the seed; `steps` is the rollouts
an arm takes to its first crossing over those that plain GRPO takes to its own, at most all of them. Only arms that
are GRPO have it. Intervals are Student's t over seeds, of `steps` on its logarithm.

Resumable, also within a run: finished ones are one JSON file each under --out (arm--seed.json), and a line of
--publish. Several processes with one --out share the work. Exits 1 unless five seeds of every arm are there and one
takes at most 0.7 of plain GRPO's steps, its interval below 1, while that of `again` holds 1. `attention_sft`,
attention on the target as a term of the SFT loss, is named in the table as not built.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep.__main__ import main as data_prep
from grounding.errors import FoveaError
from grounding.journal import read_journals
from perf.runs import Results, do_missing, interval, load, locked, publish, score, train
from recipes.callbacks import read_metrics
from recipes.config import Recipe
from recipes.runner import jobs_of

ROOT = Path(__file__).parents[1]
BATCH, GROUP, SEEDS = 64, 8, 5
EASY, HARD = 192, 64  # screens to learn from, with a single thing and larger ones
POINTS, ASKED = 16, 100  # of a curve: how many, and screens asked for each
MODEL = {"dialect": "fovea", "grammar": "think", "image_first": False}
CLICK = "click_in_box"
REWARDS = [{"name": CLICK, "when": {"format": "ok"}}]
WATCHED = {**REWARDS[0], "weight": 0.0}  # of arms with other rewards: for their curve alone
LORA = {"lora": {"r": 16, "lora_alpha": 32}}
MISSING = ("attention_sft",)
RATIO = 0.7


def grpo(steps: int, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The quickstart's GRPO stage over so many steps, watched on other screens."""
    every = max(1, options.steps // POINTS)
    own = {
        "max_steps": max(1, steps),
        "per_device_train_batch_size": BATCH,
        "num_generations": GROUP,
        "max_completion_length": 48,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
        "save_steps": every,
        "save_total_limit": 1,
        "gradient_checkpointing": False,
        "eval_strategy": "steps",
        "eval_steps": every,
        "eval_on_start": True,
        "num_generations_eval": 1,
        "per_device_eval_batch_size": ASKED,
        **more.pop("args", {}),
    }
    watched = {"path": str(options.out / "data" / "hard"), "split": "val"}
    return {"kind": "grpo", **LORA, "rewards": REWARDS, "args": own, "eval": watched, **more}


def drawing(answers: int = GROUP) -> dict[str, Any]:
    """Arguments of a stage that draws rollouts itself."""
    return {"num_generations": answers, "generation_batch_size": BATCH // GROUP, "max_completion_length": 48}


def supervised(steps: int, batch: int = 32) -> dict[str, Any]:
    return {
        "max_steps": max(1, steps),
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "save_steps": 10,
        "save_total_limit": 1,
        "gradient_checkpointing": False,
    }


def rising(steps: int) -> list[dict[str, Any]]:
    """Thresholds that rise, a third of the steps each; .85, .95 and .99 are for models whose boxes are that good."""
    first, second = max(1, steps // 3), max(3, 2 * steps // 3)
    knots = [[0, 0.3], [first, 0.3], [first + 1, 0.5], [second, 0.5], [second + 1, 0.7]]
    return [{"name": "iou_above", "schedule": {"threshold": knots}}, *REWARDS]


def boxes(name: str, **params: Any) -> list[dict[str, Any]]:
    return [{"name": name, **({"params": params} if params else {})}, WATCHED]


def arms(args: argparse.Namespace, teacher: str) -> dict[str, list[dict[str, Any]]]:
    """Stages of each arm. All draw at most `args.steps` x BATCH rollouts."""
    steps, pool = args.steps, args.easy + args.hard
    rounds = max(1, steps * BATCH // (pool * GROUP))  # of drawing GROUP answers to every question
    chosen, looked = pool * 4 // BATCH, pool // BATCH  # steps that choosing costs: four answers a question, or one
    learning = supervised(max(1, steps // (2 * rounds)))
    plain = partial(grpo, steps, args)
    unscaled = {"scale_rewards": "none"}
    filtering = {"attention": True, "rules": False, "batch_size": BATCH, "max_completion_length": 48}
    half = (steps - 2 * looked) // 2
    return {
        "grpo": [plain()],
        "again": [plain()],
        # 48 + 16 rollouts at most
        "dynamic": [
            plain(sampling={"share": 1.0, "extra": 2, "reward": CLICK}, args={"per_device_train_batch_size": 48})
        ],
        "difficulty": [plain(sampling={"reward": CLICK})],
        "unscaled_iou": [plain(rewards=boxes("iou"), args=unscaled)],  # what the weights need, by itself
        "weight_power": [plain(rewards=boxes("difficulty_weighted_iou", form="power"), args=unscaled)],
        "weight_exp": [plain(rewards=boxes("difficulty_weighted_iou", form="exp"), args=unscaled)],
        "rising": [plain(rewards=rising(steps))],
        "rejection": [
            {"repeat": rounds, "stages": [
                {"kind": "rejection", **LORA, "rewards": REWARDS,
                 "args": {**drawing(), **learning, "min_reward": 1.0, "keep": 2}}
            ]}
        ],
        "select": [
            {"kind": "select", "rewards": REWARDS, "args": {**drawing(4), "pass_at": 1.0}},
            grpo(steps - chosen, args, data={"kept": True}),
        ],
        "rounds": [
            {"repeat": 2, "stages": [
                {"kind": "filter", "args": filtering}, grpo(half, args, data={"kept": True})
            ]}
        ],
        "vote": [],
        "test_time": [
            plain(data={"path": str(args.out / "data" / "hard"), "split": "test"},
                  rewards=boxes("region_consistency"))
        ],
        "dpo": [
            {"repeat": rounds, "stages": [
                {"kind": "dpo", **LORA, "rewards": REWARDS,
                 "args": {**drawing(), **learning, "margin": 0.5, "learning_rate": 1e-4}}
            ]}
        ],
        "distill": [
            {"kind": "distill", **LORA,
             "args": {**supervised(steps, BATCH), "max_completion_length": 48, "teacher_model_name_or_path": teacher}}
        ],
    }  # fmt: skip


def sizes(args: argparse.Namespace) -> dict[str, list[str]]:
    """Flags of the data sets: what the cold start reads, and the screens to learn from and to be tested on."""
    few = max(1, args.items // 3)
    counts = {"cold": (args.cold, 1, 1), "easy": (args.easy, 1, few), "hard": (args.hard, ASKED, args.items)}
    found = {}
    for name, numbers in counts.items():
        flags = ["--size", "96", "--difficulty", "1"] if name == "easy" else ["--size", "128", "--difficulty", "3"]
        flags += ["--seed", "1" if name == "cold" else "0"]
        for split, count in zip(("train", "val", "test"), numbers, strict=True):
            flags += [f"--{split}-screens", str(min(count, args.asked) if split == "val" else count)]
        found[name] = flags
    return found


def cold_start(args: argparse.Namespace, seed: int) -> Path:
    """The model that all arms of a seed start from; drawn and trained unless it is there."""
    with locked(args.out / "data.lock", wait=True):
        for name, flags in sizes(args).items():
            folder = args.out / "data" / name
            if not (folder / "manifest.json").is_file() and data_prep(["screens", *flags, "--out", str(folder)]):
                raise SystemExit(f"{folder}: the screens could not be drawn")
    folder = args.out / "work" / f"cold--{seed}"
    with locked(args.out / f"cold--{seed}.lock", wait=True):
        stage = {"kind": "sft", **LORA, "args": supervised(args.cold_steps)}
        model = {"path": str(ROOT / "assets/fovea-tiny"), **MODEL}
        content = {"model": model, "data": str(args.out / "data" / "cold"), "stages": [stage], "seed": seed}
        return train(content, folder).folder / "0-sft" / "model"


def run_one(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train an arm, and evaluate it."""
    teacher = args.out / "work" / f"teacher--{seed}"
    if arm == "distill" and not teacher.exists():
        raise SystemExit(f"distill, seed {seed}: its teacher is the plain arm's model; run --arm grpo --seed {seed}")
    model, curve, drawn = cold_start(args, seed), [], 0
    stages = copy.deepcopy(arms(args, str(teacher))[arm])
    if stages:
        data = [str(args.out / "data" / name) for name in ("easy", "hard")]
        own = seed + 1000 if arm == "again" else seed
        content = {"model": {"path": str(model), **MODEL}, "data": data, "stages": stages, "seed": own}
        recipe = train(content, folder)
        model = recipe.folder / "final"
        curve, drawn = course(recipe)
    found = {"steps": args.steps, "items": args.items, "rollouts": drawn, "curve": curve}
    for name, size in (("accuracy", "hard"), ("easy", "easy")):
        options = ["--model", str(model), "--benchmark", "screens", "--data", str(args.out / "data" / size)]
        options += ["--max-new-tokens", "64", "--batch-size", "100"]
        options += ["--method", "voting"] if arm == "vote" else []
        found[name] = float(score(options, folder, f"eval-{size}")["accuracy"])
    if arm == "grpo" and not teacher.exists():
        part = teacher.with_name(f".{teacher.name}")
        shutil.copytree(model, part, dirs_exist_ok=True)
        part.rename(teacher)
    return found


def course(recipe: Recipe) -> tuple[list[list[float]], int]:
    """[rollouts so far, accuracy on the other screens] of GRPO's evaluations, and the rollouts of all stages."""
    curve: list[list[float]] = []
    drawn = 0
    for job in jobs_of(recipe):
        drawn += sum(len(row["answers"]) for row in read_journals(job.folder, "rollouts-*.jsonl"))
        drawn += sum(1 for _ in read_journals(job.folder, "measured-*.jsonl"))
        drawn += GROUP * sum(1 for _ in read_journals(job.folder, "kept-*.jsonl"))
        each = int(job.spec.args["per_device_train_batch_size"]) if job.spec.kind in ("grpo", "distill") else 0
        before, extra, last = drawn, 0.0, 0
        for line in read_metrics(job.metrics):
            extra += line.get("sampling/extra_rollouts", 0.0)
            last = max(last, int(line["step"]))
            if f"eval_rewards/{CLICK}/mean" in line:
                curve.append([before + each * line["step"] + extra, line[f"eval_rewards/{CLICK}/mean"]])
        drawn += round(each * last + extra)
    return curve, drawn


def smooth(curve: list[list[float]]) -> np.ndarray:
    """(N - 2, 2): means of three neighbors; of rollouts as of accuracies."""
    points = np.array(curve, dtype=float)
    return (points[:-2] + points[1:-1] + points[2:]) / 3


def crossing(curve: np.ndarray, goal: float) -> float:
    """Rollouts at which a curve (N, 2) first reaches a goal, linear between its points; infinite if it never does."""
    for index, (drawn, accuracy) in enumerate(curve):
        if accuracy >= goal:
            if index == 0:
                return float(drawn)
            (earlier, below), share = curve[index - 1], 0.0
            share = (goal - below) / (accuracy - below)
            return float(earlier + share * (drawn - earlier))
    return math.inf


def steps_to(own: dict[str, Any], plain: dict[str, Any]) -> float:
    """Rollouts until plain GRPO's last accuracy, over those that it takes itself; not a number without a curve."""
    if len(own["curve"]) < 3 or len(plain["curve"]) < 3:
        return math.nan
    mine, its = smooth(own["curve"]), smooth(plain["curve"])
    goal = float(its[-1, 1])
    return min(crossing(mine, goal), float(its[-1, 0])) / crossing(its, goal)


def table(results: Results, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The table's lines, and what falls short."""
    heads = ("accuracy", "- grpo (95 %)", "easy", "steps / grpo's (95 %)")
    lines = [f"{'arm':13} seeds {'rollouts':>9} {heads[0]:>9} {heads[1]:>26} {heads[2]:>6} {heads[3]:>24}"]
    short, best, chance = [], False, False
    plain = {seed: result for (arm, seed), result in results.items() if arm == "grpo"}
    for arm in names:
        every = [result for (name, _), result in results.items() if name == arm]
        if not every:
            lines.append(f"{arm:13} {0:5d} {'not run':>9}")
            short.append(f"{arm}: not run")
            continue
        own = [result for result in every if result["seed"] in plain]
        if len(own) < SEEDS:
            short.append(f"{arm}: {len(own)} of {SEEDS} paired seeds")
        drawn, accuracy, easy = (np.mean([one[key] for one in every]) for key in ("rollouts", "accuracy", "easy"))
        gain, ratio = "", ""
        if own and arm != "grpo":
            gain = _cell(interval([one["accuracy"] - plain[one["seed"]]["accuracy"] for one in own]), "+.3f")
            logs = [math.log(steps_to(one, plain[one["seed"]])) for one in own]
            if np.isfinite(logs).all():
                mean, low, high = (math.exp(value) for value in interval(logs))
                ratio = _cell((mean, low, high), ".2f")
                enough = len(own) >= SEEDS
                if arm == "again":
                    chance = enough and low <= 1 <= high
                else:
                    best |= enough and mean <= RATIO and high < 1
        lines.append(f"{arm:13} {len(every):5d} {drawn:9.0f} {accuracy:9.3f} {gain:>26} {easy:6.3f} {ratio:>24}")
    lines += [f"{arm:13} {'-':>5} not built" for arm in MISSING]
    if not best:
        short.append(f"no arm takes at most {RATIO:g} of plain GRPO's steps with an interval below 1")
    if not chance:
        short.append("plain GRPO once more (`again`) is not shown to take as long as itself")
    return lines, short


def _cell(found: tuple[float, float, float], form: str) -> str:
    mean, low, high = (format(value, form) for value in found)
    return f"{mean} [{low}, {high}]" if math.isfinite(found[2]) else mean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", nargs="*", help="only these")
    parser.add_argument("--seed", type=int, nargs="*", default=list(range(SEEDS)))
    parser.add_argument("--steps", type=int, default=64, help="of plain GRPO (64)")
    parser.add_argument(
        "--items", type=int, default=300, help="held-out larger screens (300); a third of it of the others"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs/recipes")
    parser.add_argument("--publish", type=Path, help="also write all finished runs to this file, one a line")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--small", action="store_true", help="everything at the smallest size")
    parser.add_argument("--table-only", action="store_true")
    parser.set_defaults(easy=EASY, hard=HARD, cold=512, cold_steps=8, asked=ASKED)
    args = parser.parse_args()
    if args.small:
        parser.set_defaults(easy=4, hard=20, cold=32, cold_steps=1, asked=8, steps=4, items=8)
        args = parser.parse_args()
    args.out = args.out.absolute()
    names = tuple(arms(args, ""))
    if unknown := set(args.arm or ()) - set(names):
        parser.error(f"no arm {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not args.table_only:
        wanted = [
            (arm, seed) for seed in args.seed for arm in names if arm in (args.arm or names)
        ]  # the teacher first
        try:
            do_missing(args.out, wanted, partial(run_one, args), keep=args.keep)
        except FoveaError as error:
            raise SystemExit(str(error)) from error
    results = load(args.out)
    if args.publish is not None:
        publish(results, args.publish)
    if len({(one["steps"], one["items"]) for one in results.values()}) > 1:
        print(f"{args.out}: runs of different --steps or --items do not compare; use one --out for each")
        return 1
    lines, short = table(results, names)
    print("\n".join([*lines, *(f"FALLS SHORT: {what}" for what in short)]))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
