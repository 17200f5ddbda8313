"""Find out by clicking which MiniWoB++ tasks one click solves, and check `data_prep/miniwob/tasks.yaml` against it.

    python -m data_prep.miniwob.survey --out runs/miniwob_survey.jsonl --problems 30

A line per task is appended as it is done; a rerun skips those. Exit code 1 when the table says something else.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.miniwob import OTHERS, SINGLE_CLICK, SOMETIMES
from data_prep.miniwob.solved_pages import check_tasks
from data_prep.miniwob.task_page import WINDOW, Searcher, TaskPage, all_tasks, html_folder
from data_prep.web.browser import Browser
from grounding.command_line import CommandParser, run_command
from grounding.journal import Journal, read_journal


def survey(browser: Browser, task: str, problems: int, real: bool) -> dict[str, Any]:
    """Try every element of `problems` problems of a task.

    Returns:
        task, problems, solved (how many of them one click earns the full reward 1), part (how many a lower one),
        regions (how many right places -> in how many problems), clicks (tried in all).
    """
    with browser.page(WINDOW, intercept=False) as page:
        searcher = Searcher(TaskPage(page, task), real=real)
        with browser.deadline(60 + 10 * problems, task):
            searches = [searcher.search(f"survey/{task}/{n}") for n in range(problems)]
    best = [max((region.raw for region in search.regions), default=0.0) for search in searches]
    return {
        "task": task,
        "problems": problems,
        "solved": sum(raw >= 1 for raw in best),
        "part": sum(0 < raw < 1 for raw in best),
        "regions": {str(k): n for k, n in sorted(Counter(len(search.regions) for search in searches).items())},
        "clicks": sum(search.clicks for search in searches),
        "instruction": searches[0].instruction,
    }


def expected(task: str) -> str:
    """What the table says: "single", "sometimes", "never"; "missing" for a task it lacks."""
    if task in SINGLE_CLICK:
        return "single"
    return "sometimes" if task in SOMETIMES else "never" if task in OTHERS else "missing"


def found(row: dict[str, Any]) -> str:
    """What clicking says."""
    if row["solved"] == row["problems"]:
        return "single"
    return "sometimes" if row["solved"] + row["part"] else "never"


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python -m data_prep.miniwob.survey", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSONL, appended to")
    parser.add_argument("--problems", type=int, default=30, help="problems of each task (30)")
    parser.add_argument("--tasks", action="several", help="only these")
    parser.add_argument("--real", action="store_true", help="every click with the mouse (slow) instead of by script")
    parser.add_argument("--chromium", help="path of the Chromium to use")
    args = parser.parse_args(argv)
    tasks = check_tasks(args.tasks) if args.tasks else all_tasks()
    header = {"kind": "survey of MiniWoB++ tasks", "problems": args.problems, "real": args.real}
    with Journal(args.out, header) as journal, Browser(html_folder(), executable=args.chromium) as browser:
        for task in tqdm([task for task in tasks if task not in journal.ids], unit="task", disable=None):
            journal.append({"id": task, **survey(browser, task, args.problems, args.real)})
    rows = {row["id"]: row for row in read_journal(args.out)}
    wrong = [task for task in tasks if found(rows[task]) != expected(task)]
    for task in tasks:
        row, mark = rows[task], "  TABLE SAYS " + expected(task) if task in wrong else ""
        part = f" (+{row['part']} in part)" if row["part"] else ""
        sys.stdout.write(f"{task:<30} {row['solved']:>3}/{row['problems']}{part} {found(row)}{mark}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:]), resumes=True))
