"""Does attention-aware credit help grounding? Every strategy against uniform, from one SFT checkpoint.

    python perf/credit_strategies.py --recipe configs/recipes/quickstart.yaml --model runs/quickstart/0-sft/model
    python perf/credit_strategies.py --table-only          # the tables of whatever has been run so far
    python perf/credit_strategies.py --table-only --out docs/runs/credit_quickstart.jsonl    # of published runs

Each (arm, seed) trains the recipe's `grpo` stage for `--steps` steps with only the `credit:` section and the seed
exchanged: equal rollouts, the same data in the same order, and (`normalize: response`) the same mean weight. Then the
final model answers the recipe's held-out `test` split greedily. An arm is paired with `uniform` by seed.

Resumable: a finished run is one JSON file under --out (arm--seed.json); the same command does what is missing, and
prints the table from what is there. Runs go seed by seed, so that every arm has the same seeds at any time; several
processes with the same --out share the work.

Columns: final held-out accuracy and mean IoU; area under the training-reward curve (mean reward over steps); steps
until the mean reward of ten steps reaches --target (censored at the last step); each as the difference from uniform
over the common seeds, with the 95 % percentile interval of 10,000 paired bootstrap samples. `*` marks intervals
without 0. Below that the learning curves: mean reward in every sixth of the steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))

from perf.runs import do_missing, load, paired_interval, score, train

ROOT = Path(__file__).parents[1]

ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform"},
    "random": {"strategy": "random"},
    "entropy": {"strategy": "entropy"},
    "entropy_bottom": {"strategy": "entropy", "params": {"which": "bottom"}},
    "coordinate": {"strategy": "coordinate"},
    "coordinate_bottom": {"strategy": "coordinate", "params": {"which": "bottom"}},
    "local_chunk": {"strategy": "local_chunk"},
    "local_chunk_bottom": {"strategy": "local_chunk", "params": {"which": "bottom"}},
    "global_anchor": {"strategy": "global_anchor"},
    # what `python -m credit describe` suggests: anchors where there is a gradient to amplify
    "uncertain_anchor": {"strategy": "uncertain_anchor", "horizon": [1, 100]},
    "uncertain_anchor_bottom": {"strategy": "uncertain_anchor", "horizon": [1, 100], "params": {"which": "bottom"}},
    "global_anchor_bottom": {"strategy": "global_anchor", "params": {"which": "bottom"}},
    "global_anchor_response_keys": {"strategy": "global_anchor", "heads": {"keys": "response"}},
    "coupled_rhythm": {"strategy": "coupled_rhythm"},
    # for thoughts of a dozen tokens, where the published horizon [10, 100] sees little
    "global_anchor_short": {"strategy": "global_anchor", "horizon": [1, 20], "params": {"q": 0.2}},
    "coupled_rhythm_short": {"strategy": "coupled_rhythm", "horizon": [1, 20], "params": {"q": 0.2}},
    "visual_anchor": {"strategy": "visual_anchor"},
    "visual_anchor_bottom": {"strategy": "visual_anchor", "params": {"which": "bottom"}},
    "visual_density": {"strategy": "visual_density"},
    "grounded": {"strategy": "grounded"},
    "sentence": {"strategy": "sentence", "sentence_skip": 1},
    "vppo": {"strategy": "vppo", "normalize": "batch"},
    # not at equal mean weight: a larger step, to tell apart from better credit
    "larger_step": {"strategy": "global_anchor", "params": {"q": 1.0}, "tail": "amplify", "normalize": "none"},
}


def run_one(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train and evaluate."""
    recipe = train(_recipe(args, arm, seed), folder)
    metrics = score(_evaluation(args, recipe.folder / "final"), folder)
    rows = [json.loads(line) for line in _metrics_file(folder).read_text().splitlines()]
    curve = [{"step": row["step"], "reward": row["reward"]} for row in rows if "reward" in row]
    credit = [{k: v for k, v in row.items() if k.startswith("credit/")} for row in rows if "credit/mean" in row]
    return {
        "steps": args.steps,
        "rollouts": args.rollouts,
        "credit": ARMS[arm],
        "accuracy": float(metrics["accuracy"]),
        "mean_iou": float(metrics["official"]["mean_iou"]),
        "curve": curve,
        "credit_last": credit[-1] if credit else {},
    }


def _recipe(args: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """The recipe with its grpo stage alone, starting from the SFT checkpoint."""
    recipe = OmegaConf.to_container(OmegaConf.load(args.recipe), resolve=True)
    stages = [stage for stage in recipe["stages"] if stage["kind"] == "grpo"]
    if not stages:
        raise SystemExit(f"{args.recipe}: no grpo stage")
    stage = stages[0]
    kept = {key: value for key, value in stage.get("args", {}).items() if "eval" not in key}
    stage["args"] = {**kept, "max_steps": args.steps, "logging_steps": 1, "save_strategy": "no"}
    if args.rollouts:
        stage["args"]["per_device_train_batch_size"] = args.rollouts
    stage["credit"] = ARMS[arm]
    for section in ("data", "eval"):  # --data instead, and the evaluation comes at the end
        stage.pop(section, None)
    recipe["model"]["path"] = str(args.model)
    return {**recipe, "data": str(args.data), "stages": [stage], "seed": seed}


def _evaluation(args: argparse.Namespace, model: Path) -> list[str]:
    options = ["--model", str(model), "--benchmark", args.benchmark, "--data", str(args.data)]
    return [*options, "--max-new-tokens", "96", "--limit", str(args.items), *args.eval_option]


def _metrics_file(folder: Path) -> Path:
    return next((folder / "run").rglob("metrics.jsonl"))


def summarize(results: dict[tuple[str, int], dict[str, Any]], target: float, bootstraps: int = 10_000) -> list[str]:
    """The table's lines."""
    measures = {
        "accuracy": lambda r: r["accuracy"],
        **({"mean IoU": lambda r: r["mean_iou"]} if all("mean_iou" in r for r in results.values()) else {}),
        "area": lambda r: float(np.mean([point["reward"] for point in r["curve"]])),
        f"steps to {target:g}": lambda r: steps_to(r["curve"], target),
    }
    arms = [arm for arm in ARMS if any(name == arm for name, _ in results)]
    lines = [f"{'arm':28} seeds  " + "  ".join(f"{name:>10} {'- uniform (95 %)':>26}" for name in measures)]
    for arm in arms:
        seeds = sorted(
            {seed for name, seed in results if name == arm} & {s for name, s in results if name == "uniform"}
        )
        if len(seeds) < 2:  # no interval
            continue
        cells = []
        for measure in measures.values():
            own = np.array([measure(results[arm, seed]) for seed in seeds])
            base = np.array([measure(results["uniform", seed]) for seed in seeds])
            low, high = paired_interval(own - base, bootstraps)
            mark = "*" if low > 0 or high < 0 else " "
            difference = f"{np.mean(own - base):+.3f} [{low:+.3f}, {high:+.3f}]{mark}"
            cells.append(f"{own.mean():10.3f} {difference if arm != 'uniform' else '':>26}")
        lines.append(f"{arm:28} {len(seeds):5d}  " + "  ".join(cells))
    return lines


def curves(results: dict[tuple[str, int], dict[str, Any]], parts: int = 6) -> list[str]:
    """Mean reward over seeds in each part of the steps, an arm a line."""
    steps = next(iter(results.values()))["steps"]
    ends = [round(steps * (part + 1) / parts) for part in range(parts)]
    lines = [f"{'mean reward up to step':28} seeds  " + "  ".join(f"{end:>6}" for end in ends)]
    for arm in (arm for arm in ARMS if any(name == arm for name, _ in results)):
        rewards = np.array([[p["reward"] for p in r["curve"]] for (name, _), r in results.items() if name == arm])
        means = [part.mean() for part in np.split(rewards, ends[:-1], axis=1)]
        lines.append(f"{arm:28} {len(rewards):5d}  " + "  ".join(f"{mean:6.3f}" for mean in means))
    return lines


def steps_to(curve: list[dict[str, float]], target: float, width: int = 10) -> float:
    """First step at which the mean reward of the last `width` steps reaches `target`; else the last step."""
    rewards = np.array([point["reward"] for point in curve])
    if len(rewards) < width:
        return float(curve[-1]["step"])
    means = np.convolve(rewards, np.ones(width) / width, mode="valid")
    reached = np.flatnonzero(means >= target)
    return float(curve[reached[0] + width - 1]["step"] if len(reached) else curve[-1]["step"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs/recipes/quickstart.yaml")
    parser.add_argument("--model", type=Path, help="the SFT checkpoint every run starts from")
    parser.add_argument("--benchmark", default="screens", help="a name eval.py knows")
    parser.add_argument("--data", type=Path, default=ROOT / "data/screens", help="data set folder: train and test")
    parser.add_argument("--items", type=int, default=512, help="held-out items")
    parser.add_argument("--eval-option", action="append", default=[], help="further options for eval.py")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rollouts", type=int, help="of a step; the recipe's by default")
    parser.add_argument("--target", type=float, default=1.5, help="mean reward of the recipe's, for steps-to-target")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/credit_strategies")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--table-only", action="store_true")
    args = parser.parse_args()
    if not args.table_only:
        if args.model is None:
            parser.error("--model is required: the SFT checkpoint every run starts from")
        wanted = [(arm, seed) for seed in range(args.seeds) for arm in args.arms]
        do_missing(args.out, wanted, partial(run_one, args), keep=args.keep)
    results = load(args.out)
    if not results:
        print(f"{args.out}: nothing has been run yet")
        return 1
    budgets = {(result["steps"], result["rollouts"]) for result in results.values()}
    if len(budgets) > 1:
        print(f"{args.out}: runs of {budgets} steps and rollouts do not compare; use one --out for each")
        return 1
    print("\n".join([*summarize(results, args.target), "", *curves(results)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
