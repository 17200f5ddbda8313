"""`results.jsonl`, one line per answer, and `metrics.json`: what a run of eval.py leaves behind.

A line of `results.jsonl` (coordinates canonical: [0, 1] of the original image, spans in seconds)::

    {"id": "s1-7", "rollout": 0, "instruction": "the red circle", "groups": {"level": "2"},
     "images": [{"path": "images/7.png", "width": 96, "height": 96, "seen": [96, 96]}],
     "asks": "box", "frame": "unit",
     "truth": {"boxes": [[0.1, 0.2, 0.3, 0.4]], "box_images": [0], "polygons": [], "points": [], "spans": [],
               "text": null, "mask": null, "absent": false},
     "output": "<think>...</think>{...}", "status": "ok", "strict": true, "missing": false,
     "prediction": {"boxes": [[...]], "points": [], "spans": [], "images": [0], "labels": [null], "text": null,
                    "absent": false, "thought": "..."},
     "correct": true, "value": 0.83, "skipped": false}

An answer in several turns has one key more, `turns`: for each the text, the tool called, its region and what was
shown (both canonical), the reply, and whether the call was refused.

`frame` is "unit" unless the size of an image is unknown; then coordinates stay in pixels and it says "pixel".
`prediction` is what was read, whether in range or not; nothing is clamped.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.io.row_files import read_rows
from benchmarks.harness.items import BenchmarkItem, Prediction, Verdict
from benchmarks.harness.official_frame import canonical, has_sizes
from grounding.io import replacing


@dataclass(frozen=True, slots=True)
class ItemReply:
    """One raw output for one item, before it is judged.

    Attributes:
        output: the model's text; None where a predictions file gives coordinates only.
        prediction: what was read from it.
        seen: [width, height] of each image as the model was shown it; empty when not known.
        missing: the predictions file has no line for the item.
        cost: tokens generated, forward passes, ... summed into `metrics.json`.
        turns: of an answer in several turns, each as it was said, called and shown; None for a single one.
    """

    prediction: Prediction
    output: str | None = None
    rollout: int = 0
    seen: tuple[tuple[int, int], ...] = ()
    missing: bool = False
    cost: dict[str, int] = field(default_factory=dict)
    turns: list[dict[str, Any]] | None = None


def result_row(item: BenchmarkItem, reply: ItemReply, verdict: Verdict) -> dict[str, Any]:
    """One line of `results.jsonl`."""
    truth, prediction = item.truth, reply.prediction

    def image_of(index: int) -> int:
        return prediction.images[index] if index < len(prediction.images) else 0

    return {
        "id": item.id,
        "rollout": reply.rollout,
        "instruction": item.instruction,
        "groups": dict(item.groups),
        "images": [
            {
                "path": p.path,
                "width": p.width,
                "height": p.height,
                "seen": list(reply.seen[i]) if i < len(reply.seen) else None,
            }
            for i, p in enumerate(item.images)
        ],
        "asks": item.answer_kind,
        "frame": "unit" if has_sizes(item) else "pixel",
        "truth": {
            "boxes": [canonical(b, item, truth.image_of(i)) for i, b in enumerate(truth.boxes)],
            "box_images": [truth.image_of(i) for i in range(len(truth.boxes))],
            "polygons": [[canonical(v, item, 0) for v in polygon] for polygon in truth.polygons],
            "points": [canonical(p, item, 0) for p in truth.points],
            "spans": [list(s) for s in truth.spans],
            "text": truth.text,
            "mask": truth.mask,
            "absent": truth.absent,
        },
        "output": reply.output,
        "status": prediction.status.value,
        "strict": prediction.strict,
        "missing": reply.missing,
        "prediction": {
            "boxes": [canonical(b, item, image_of(i)) for i, b in enumerate(prediction.boxes)],
            "points": [canonical(p, item, image_of(i)) for i, p in enumerate(prediction.points)],
            "spans": [list(s) for s in prediction.spans],
            "images": list(prediction.images),
            "labels": list(prediction.labels),
            "text": prediction.text,
            "absent": prediction.absent,
            "thought": prediction.thought,
        },
        "correct": verdict.correct,
        "value": verdict.value,
        "skipped": verdict.skipped,
        **({} if reply.turns is None else {"turns": reply.turns}),
    }


def write_results(
    out: Path | None, rows: Iterable[dict[str, Any]], metrics: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Write both files, each atomically: a reader sees the old one or the new one, never half of one.

    Args:
        out: None only goes through the rows.
        metrics: called when the last row is written.

    Returns:
        The metrics.

    Raises:
        FoveaError: the disk is full or not writable.
    """
    if out is None:
        deque(rows, maxlen=0)
        return metrics()
    with replacing(out / "results.jsonl") as part:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        found = metrics()
    with replacing(out / "metrics.json") as part:
        part.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return found


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a `results.jsonl`, or of the one in a folder."""
    return [row for _, row in read_rows(path / "results.jsonl" if path.is_dir() else path)]
