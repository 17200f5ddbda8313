"""`python -m benchmarks.miniwob`: baselines and models on live MiniWoB++ pages; see the package."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.harness import cli, tables
from benchmarks.miniwob import BASELINES, baseline, evaluate
from benchmarks.miniwob.live import collect
from data_prep.miniwob import SINGLE_CLICK
from data_prep.miniwob.solved_pages import check_tasks
from data_prep.miniwob.task_page import CROPS
from grounding.command_line import CommandParser, run_command
from grounding.folders import owning


def main(argv: Sequence[str]) -> int:
    """The command line; further flags of eval.py may follow for a model."""
    parser = CommandParser(
        prog="python -m benchmarks.miniwob",
        description="MiniWoB++, live: click where a policy points and read the page's own reward.",
    )
    parser.add_argument("--policy", required=True, help=f"{', '.join(BASELINES)}, or a model folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the episodes; made when they are missing")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl and metrics.json")
    parser.add_argument("--per-task", type=int, default=50, help="episodes of each task (50)")
    parser.add_argument("--tasks", action="several", help=f"tasks (the {len(SINGLE_CLICK)} that one click solves)")
    parser.add_argument("--crop", choices=sorted(CROPS), default="area", help="as for `data_prep miniwob`")
    parser.add_argument("--seed", type=int, default=0, help="of the pages and of the random baselines")
    parser.add_argument("--chromium", help="path of the Chromium to use")
    args, more = parser.parse_known_args(argv)
    is_model = args.policy not in BASELINES
    if more and not is_model:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    tasks = check_tasks(args.tasks) if args.tasks else list(SINGLE_CLICK)
    total = len(tasks) * args.per_task
    with tqdm(total=total, desc="pages", unit="page", disable=None) as bar:
        made = {"seed": args.seed, "crop": args.crop, "chromium": args.chromium}
        episodes = collect(args.data, tasks, args.per_task, **made, progress=bar.update)
    if is_model:
        where = ["--data", str(args.data), "--out", str(args.out)]
        return cli.main(["--model", args.policy, "--benchmark", "miniwob", *where, *more])
    facts = {"model": args.policy, "data": str(args.data), "seed": args.seed}
    with owning(args.out, "evaluation"):
        metrics = evaluate(baseline(args.policy, args.seed), episodes, args.out, **facts)
    sys.stdout.write(tables.score(metrics) + "\n")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(run_command(lambda: main(sys.argv[1:]), resumes=True))
