"""Read the result files other people's evaluation scripts write, as they are.

Logs hold the annotation beside the prediction, so they can be scored with or without the benchmark's own files:

    sspro       ScreenSpot-Pro's script and its many descendants: pred, bbox, correctness
    vlm_r1      VLM-R1 and its descendants: ground_truth, extracted_answer, correct
    mig_bench   Migician's MIG-Bench script: filter_answer, groundtruth, iou

Submissions hold predictions only and need the benchmark's files:

    moment_detr     QVHighlights: qid, pred_relevant_windows, pred_saliency_scores
    grounding_suite idx, predicted_box
    ref_l4          id, pred_bbox, format
    coco            image_id, category_id, bbox (xywh), score

Which of them a file is shows in its keys; in which unit its numbers are never is guessed: a log's prediction and
annotation share a unit, and submissions are declared.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.clicks import picture_of
from benchmarks.harness.files import box, corners
from benchmarks.harness.items import DIGITS, MISSING, Item, Picture, Prediction, Truth
from benchmarks.harness.predictions import Reading, read_output
from benchmarks.harness.results import Reply
from grounding.answer import Status
from grounding.errors import BrokenRow, UsageError

_GROUPS = ("ui_type", "group", "application", "platform", "task")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a log.

    Attributes:
        item: the question with the annotation the log itself carries.
        prediction: what the log's script extracted, in the log's own unit.
        output: raw text, where kept.
        correct: the log's own verdict; None where it gives none.
        where: file and row.
    """

    item: Item
    prediction: Prediction
    output: str | None
    correct: bool | None
    where: str


def format_of(path: Path) -> str | None:
    """Which of the formats above `path` has; None when it is a predictions file of ours."""
    row = next((row for _, row in rows_in(path)), None)
    if row is None:
        raise UsageError(f"{path}: the file is empty")
    for name, keys in _SIGNS.items():
        if all(any(key in row for key in alternatives) for alternatives in keys):
            return name
    return None


_SIGNS: dict[str, list[tuple[str, ...]]] = {
    "sspro": [("pred",), ("bbox",), ("instruction", "prompt_to_evaluate")],
    "vlm_r1": [("ground_truth",), ("extracted_answer",)],
    "mig_bench": [("filter_answer",), ("groundtruth",)],
    "moment_detr": [("qid",), ("pred_relevant_windows",)],
    "ref_l4": [("pred_bbox",), ("id",)],
    "grounding_suite": [("idx",), ("predicted_box", "box")],
    "coco": [("image_id",), ("bbox",), ("score",)],
}
LOGS = ("sspro", "vlm_r1", "mig_bench")
FORMATS = tuple(_SIGNS)


def read_log(path: Path, name: str, asks: str, unit: str) -> list[Entry]:
    """The rows of a log.

    Args:
        name: one of `LOGS`.
        asks: what the benchmark asks for.
        unit: the unit of the log's numbers, "pixel" or "unit".

    Raises:
        BrokenRow: a row without the keys of the format, named.
    """
    read = {"sspro": _sspro, "vlm_r1": _vlm_r1, "mig_bench": _mig_bench}[name]
    entries = []
    for number, (where, row) in enumerate(rows_in(path)):
        try:
            entries.append(read(row, number, where, asks, unit))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BrokenRow(where, f"not a row of a {name} log: {error!r}") from error
    return entries


def score_log(entries: Sequence[Entry], reading: Reading) -> list[tuple[Item, Reply]]:
    """The log against its own annotations; raw outputs are read anew when a dialect is declared."""
    return [(entry.item, _reply(entry, entry.item, reading)) for entry in entries]


def match_log(entries: Sequence[Entry], items: Sequence[Item], reading: Reading) -> list[tuple[Item, Reply]]:
    """The log against the benchmark's annotations: by id, else by image name and instruction.

    Raises:
        UsageError: a row that belongs to no item, or more rows than items for a question.
    """
    waiting: dict[Any, list[Item]] = defaultdict(list)
    for item in items:
        waiting["id", item.id].append(item)
        waiting[_question(item)].append(item)
    found: dict[str, Reply] = {}
    for entry in entries:
        candidates = [i for i in waiting["id", entry.item.id] if _question(i) == _question(entry.item)]
        candidates = candidates or waiting[_question(entry.item)]
        free = [item for item in candidates if item.id not in found]
        if not free:
            reason = "a second answer for this question" if candidates else "no such question in the benchmark"
            raise UsageError(f"{entry.where}: {reason}: {entry.item.instruction!r}")
        # Two items may share image and words; then the annotation in the log says which one was meant.
        same = [item for item in free if item.truth.boxes == entry.item.truth.boxes]
        item = (same or free)[0]
        found[item.id] = _reply(entry, item, reading)
    return [(item, found.get(item.id, Reply(MISSING, missing=True))) for item in items]


def claimed(entries: Sequence[Entry]) -> dict[str, int] | None:
    """How many rows the log itself calls right; None when it does not say."""
    verdicts = [entry.correct for entry in entries if entry.correct is not None]
    return {"n": len(verdicts), "correct": sum(verdicts)} if verdicts else None


def _reply(entry: Entry, item: Item, reading: Reading) -> Reply:
    if reading.dialect is not None and entry.output is not None:
        return read_output(entry.output, item, reading, None)
    return Reply(entry.prediction, entry.output)


def _question(item: Item) -> tuple[str, str]:
    name = item.images[0].path.rpartition("/")[2] if item.images else ""
    return name, " ".join(item.instruction.split())


def rows_in(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a JSON list, of the list inside a JSON object, or of JSON lines, whatever the file's suffix."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    try:
        content = json.loads(text)
    except ValueError:
        yield from _json_lines(path, text)
        return
    if isinstance(content, dict):
        lists = [content[key] for key in ("results", "details", "predictions") if isinstance(content.get(key), list)]
        content = lists[0] if lists else [content]
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise BrokenRow(f"{path}[{number}]", "a JSON object is needed")
        if row.keys().isdisjoint(("IOU@0.5", "AVE_IOU")) and not all(isinstance(v, dict) for v in row.values()):
            yield f"{path}[{number}]", row  # Migician's script appends its totals as a last row


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BrokenRow(f"{path}:{number}", f"not JSON: {error}") from error
            if not isinstance(row, dict):
                raise BrokenRow(f"{path}:{number}", "a JSON object is needed")
            yield f"{path}:{number}", row


def _numbers(value: Any) -> Prediction:
    """Two numbers are a point, four a box; anything else could not be read. Zeros are how logs write a failure."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        value = value[0]
    if not isinstance(value, list | tuple) or len(value) not in (2, 4):
        return Prediction(Status.NO_ANSWER)
    numbers = tuple(round(float(v), DIGITS) for v in value)
    status = Status.OK if any(numbers) else Status.NO_ANSWER
    if len(numbers) == 2:
        return Prediction(status, status is Status.OK, points=(numbers,))
    return Prediction(status, status is Status.OK, boxes=(numbers,))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _sspro(row: Mapping[str, Any], number: int, where: str, asks: str, unit: str) -> Entry:
    words = row.get("prompt_to_evaluate", row.get("instruction", ""))
    verdict = row.get("correctness")
    item = Item(
        id=str(row.get("id", row.get("idx", number))),
        images=(picture_of(row),),
        instruction=str(words),
        truth=Truth(boxes=(box(row["bbox"][:4]),)),  # some copies carry the rest of a polygon
        asks=asks,
        groups={key: str(row[key]) for key in _GROUPS if isinstance(row.get(key), str)},
        frame=unit,
    )
    return Entry(item, _numbers(row["pred"]), _text(row.get("raw_response")), verdict and verdict == "correct", where)


def _vlm_r1(row: Mapping[str, Any], number: int, where: str, asks: str, unit: str) -> Entry:
    question = str(row.get("question", ""))
    item = Item(
        id=str(number),
        images=(Picture(str(row.get("image", ""))),),
        instruction=question.partition("sentence describes: ")[2].rstrip(".") or question,
        truth=Truth(boxes=(box(row["ground_truth"]),)),
        asks=asks,
        frame=unit,
    )
    verdict = row.get("correct")
    correct = None if verdict is None else bool(verdict)
    return Entry(item, _numbers(row["extracted_answer"]), _text(row.get("model_output")), correct, where)


def _mig_bench(row: Mapping[str, Any], number: int, where: str, asks: str, unit: str) -> Entry:
    item = Item(
        id=str(number),
        images=(Picture(""),),
        instruction=str(row["question"]),
        truth=Truth(boxes=(box(row["groundtruth"]),)),
        asks=asks,
        groups={"task": str(row["task"])} if "task" in row else {},
        frame="unit",
    )
    return Entry(item, _numbers(row["filter_answer"]), _text(row.get("answer")), None, where)


def submission_rows(path: Path, name: str, items: Sequence[Item]) -> list[dict[str, Any]]:
    """A submission as rows of our own predictions format."""
    rows = [row for _, row in rows_in(path)]
    if name == "coco":
        return _by_image(rows, items)
    ours = []
    for row in rows:
        if name == "moment_detr":
            windows = row["pred_relevant_windows"]
            ours.append(
                {
                    "id": str(row["qid"]),
                    "spans": [w[:2] for w in windows],
                    "scores": [w[2] if len(w) > 2 else 1.0 for w in windows],
                    "saliency": row.get("pred_saliency_scores"),
                }
            )
        elif name == "grounding_suite":
            ours.append({"id": str(row["idx"]), "box": row.get("box") or row.get("predicted_box")})
        else:
            four = row["pred_bbox"]
            ours.append({"id": str(row["id"]), "box": corners(four) if row.get("format") == "xywh" else four})
    return ours


def _by_image(rows: Sequence[Mapping[str, Any]], items: Sequence[Item]) -> list[dict[str, Any]]:
    """COCO results, gathered per image; labels are the names of the categories."""
    gathered: dict[str, dict[str, list[Any]]] = defaultdict(lambda: {"boxes": [], "scores": [], "labels": []})
    names = {key: name for item in items for key, name in item.meta.get("categories", {}).items()}
    for row in rows:
        entry = gathered[str(row["image_id"])]
        entry["boxes"].append(corners(row["bbox"]))
        entry["scores"].append(float(row["score"]))
        entry["labels"].append(names.get(row["category_id"], str(row["category_id"])))
    return [{"id": identity, **entry} for identity, entry in gathered.items()] + [
        {"id": item.id, "absent": True} for item in items if item.id not in gathered
    ]
