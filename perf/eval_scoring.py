"""What scoring a prediction costs on one core, from file rows to verdicts, in units of Python's own JSON.

    python perf/eval_scoring.py

One process, one thread, processor time. Times matching and reading of the rows and the verdicts, for clicks, boxes
and raw text, against writing the same rows as JSON and reading them again with the standard library, which any way to
score a file has to do. Exits 1 when scoring costs more than the allowed number of such round trips. Reading JSON from
disk, bootstrap intervals and writing `results.jsonl` are shown apart: they are not part of the claim.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import BENCHMARKS
from benchmarks.harness.io.predictions import PredictionFormat, match_rows
from benchmarks.harness.io.results import result_row, write_results
from benchmarks.harness.io.row_files import read_rows
from benchmarks.harness.items import BenchmarkItem, ItemImage, Truth
from benchmarks.harness.scoring.intervals import Scoreboard

N = 20_000
REPEATS = 5
ALLOWED, ALLOWED_TEXT = 9.0, 13.0


def questions(answer_kind: str) -> list[BenchmarkItem]:
    rng = random.Random(0)
    items = []
    for number in range(N):
        x, y = rng.randrange(1800), rng.randrange(900)
        truth = Truth(boxes=((float(x), float(y), x + 80.0, y + 40.0),))
        groups = {"group": str(number % 6), "type": ("text", "icon")[number % 2]}
        items.append(
            BenchmarkItem(str(number), (ItemImage("a.png", 1920, 1080),), "click it", truth, answer_kind, groups)
        )
    return items


def answers(items: list[BenchmarkItem], kind: str) -> list[dict]:
    rng = random.Random(1)
    rows = []
    for item in items:
        x, y, _, _ = item.truth.boxes[0]
        left, top = int(x + rng.randrange(-60, 60)), int(y + rng.randrange(-30, 30))
        if kind == "point":
            rows.append({"id": item.id, "point": [left + 40, top + 20]})
        elif kind == "box":
            rows.append({"id": item.id, "box": [left, top, left + 80, top + 40]})
        else:
            numbers = [max(0, int(left / 1.92)), max(0, int(top / 1.08))]
            text = f'<think>The button is near the top.</think>{{"bbox_2d": [{numbers[0]}, {numbers[1]}, 990, 995]}}'
            rows.append({"id": item.id, "output": text})
    return rows


def seconds(work) -> tuple[float, object]:
    """Processor seconds, and what the work gave."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> int:
    cases = [
        ("click, pixels", "screenspot_pro", "point", PredictionFormat(space="pixel"), ALLOWED),
        ("box, pixels", "refcoco", "box", PredictionFormat(space="pixel"), ALLOWED),
        (
            "raw text, qwen3_vl",
            "refcoco",
            "output",
            PredictionFormat(dialect="qwen3_vl", grammar="think"),
            ALLOWED_TEXT,
        ),
    ]
    print(f"{'what':<36}{'predictions/s':>14}{'JSON/s':>12}{'ratio':>8}{'allowed':>9}")
    slow = False
    for name, benchmark, kind, reading, allowed in cases:
        bench = BENCHMARKS.get(benchmark)()
        items = questions(bench.answer_kind)
        rows = [("row", row) for row in answers(items, kind)]

        def score(bench=bench, items=items, rows=rows, reading=reading):
            replies = match_rows(rows, items, reading)
            return replies, bench.judge(items, [reply.prediction for _, reply in replies], bench.rule)

        def round_trip(rows=rows):
            return [json.loads(json.dumps(row)) for _, row in rows]

        pairs = [(seconds(score), seconds(round_trip)) for _ in range(REPEATS)]
        took, (replies, verdicts) = min((own for own, _ in pairs), key=lambda pair: pair[0])
        plain = min(other for _, (other, _) in pairs)
        slow |= took > allowed * plain
        print(f"{name:<36}{N / took:>14,.0f}{N / plain:>12,.0f}{took / plain:>8.1f}{allowed:>9.0f}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preds.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for _, row in rows))

        def counts():
            board = Scoreboard()
            for (item, reply), verdict in zip(replies, verdicts, strict=True):
                board.add(item, reply.prediction, verdict)
            return board.metrics(bench.rule)

        for name, work in (
            ("  reading JSON lines", lambda: list(read_rows(path))),
            ("  counts and intervals", counts),
            (
                "  writing results.jsonl",
                lambda: write_results(
                    Path(folder), (result_row(i, r, v) for (i, r), v in zip(replies, verdicts, strict=True)), dict
                ),
            ),
        ):
            took, _ = seconds(work)
            print(f"{name:<36}{N / took:>14,.0f}{'':>9}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
