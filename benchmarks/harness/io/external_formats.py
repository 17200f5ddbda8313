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
annotation share a unit (pixels, unless `--space` says otherwise), and submissions are declared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.io.official_files import as_written, box, identity, naming, number, numbers, unit_box, words
from benchmarks.harness.io.predictions import PredictionFormat, needs_seen, read_output, read_row, space_warning
from benchmarks.harness.io.results import ItemReply
from benchmarks.harness.io.row_files import Row, read_rows
from benchmarks.harness.items import MISSING, XYXY, BenchmarkItem, ItemImage, Prediction, Truth
from benchmarks.harness.official_frame import DIGITS
from benchmarks.harness.row_benchmark import picture_of
from grounding.answer import Status
from grounding.errors import UsageError

_GROUPS = ("ui_type", "group", "application", "platform", "task")
_WIDTHS = {2: ("point", "points"), 4: ("box", "boxes")}
_TOTALS = {"IOU@0.5", "AVE_IOU"}  # Migician's script appends its totals as a last row


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a log.

    Attributes:
        item: the question with the annotation the log itself carries.
        answer: what the log's script extracted, as a row of our predictions format; without a key, nothing was.
        space: the unit of its numbers.
        output: raw text, where kept.
        correct: the log's own verdict; None where it gives none.
        where: file and row.
    """

    item: BenchmarkItem
    answer: dict[str, Any]
    space: str
    output: str | None
    correct: bool | None
    where: str


def format_of(path: Path) -> str | None:
    """Which of the formats above `path` has; None when it is a predictions file of ours."""
    _, row = next(read_rows(path))
    for name, keys in _SIGNS.items():
        if all(any(key in row for key in alternatives) for alternatives in keys):
            return name
    return None


_SIGNS: dict[str, list[tuple[str, ...]]] = {
    "sspro": [("pred",), ("bbox", "gt_type", "correctness"), ("instruction", "prompt_to_evaluate")],
    "vlm_r1": [("ground_truth",), ("extracted_answer",)],
    "mig_bench": [("filter_answer",), ("groundtruth",)],
    "moment_detr": [("qid",), ("pred_relevant_windows",)],
    "ref_l4": [("pred_bbox",), ("id",)],
    "grounding_suite": [("idx",), ("predicted_box", "box")],
    "coco": [("image_id",), ("bbox",), ("category_id", "score")],
}
LOGS = ("sspro", "vlm_r1", "mig_bench")
FORMATS = tuple(_SIGNS)


def read_log(path: Path, name: str, answer_kind: str, space: str | None = None) -> list[Entry]:
    """The rows of a log.

    Args:
        name: one of `LOGS`.
        answer_kind: what the benchmark asks for.
        space: the unit of the log's predictions and annotations: "pixel" (default), "unit" or "thousand".

    Raises:
        BrokenRow: a row without the keys of the format, or with a value that is none, named.
        UsageError: another space.
    """
    space = space or "pixel"
    if space not in ("pixel", "unit", "thousand"):
        raise UsageError(f"{path}: a log's prediction and annotation share a unit: --space pixel, unit or thousand")
    read = {"sspro": _sspro, "vlm_r1": _vlm_r1, "mig_bench": _mig_bench}[name]
    entries = []
    for place, (where, row) in enumerate(read_rows(path)):
        if not _is_total(row):
            with naming(f"{where}: not a row of a {name} log"):
                entries.append(read(row, place, where, answer_kind, space))
    if not entries:
        raise UsageError(f"{path}: the log has no rows")
    return entries


def _is_total(row: Mapping[str, Any]) -> bool:
    parts = [value for value in row.values() if isinstance(value, dict)]
    return bool(_TOTALS & row.keys()) or any(_TOTALS & part.keys() for part in parts)


def score_log(entries: Sequence[Entry], reading: PredictionFormat) -> list[tuple[BenchmarkItem, ItemReply]]:
    """The log against its own annotations; raw outputs are read anew when a dialect is declared."""
    return [(entry.item, _reply(entry, entry.item, reading)) for entry in entries]


def match_log(
    entries: Sequence[Entry], items: Sequence[BenchmarkItem], reading: PredictionFormat
) -> list[tuple[BenchmarkItem, ItemReply]]:
    """The log against the benchmark's annotations: by id, else by image name and instruction.

    Raises:
        UsageError: a row that belongs to no item, or more rows than items for a question.
    """
    waiting: dict[Any, list[BenchmarkItem]] = defaultdict(list)
    for item in items:
        waiting["id", item.id].append(item)
        waiting[_question(item)].append(item)
    found: dict[str, ItemReply] = {}
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
    return [(item, found.get(item.id, ItemReply(MISSING, missing=True))) for item in items]


def log_warning(entries: Sequence[Entry]) -> str | None:
    """What `space_warning` says of a log."""
    # The rows of a log have no ids of their own where the script writes none
    items = [replace(entry.item, id=str(place)) for place, entry in enumerate(entries)]
    rows = ({**entry.answer, "id": str(place)} for place, entry in enumerate(entries))
    return space_warning(rows, items, entries[0].space)


def claimed(entries: Sequence[Entry]) -> dict[str, int] | None:
    """How many rows the log itself calls right; None when it does not say."""
    verdicts = [entry.correct for entry in entries if entry.correct is not None]
    return {"n": len(verdicts), "correct": sum(verdicts)} if verdicts else None


def _reply(entry: Entry, item: BenchmarkItem, reading: PredictionFormat) -> ItemReply:
    if reading.dialect is not None:
        if entry.output is None:
            return ItemReply(MISSING, missing=True)
        needs_seen(reading, item, None, entry.where)
        return read_output(entry.output, item, reading, None)
    if not entry.answer:
        return ItemReply(Prediction(Status.NO_ANSWER), entry.output)
    reply = read_row(entry.answer, item, PredictionFormat(entry.space), entry.where)
    return ItemReply(reply.prediction, entry.output)


def _question(item: BenchmarkItem) -> tuple[str, str]:
    name = item.images[0].path.rpartition("/")[2] if item.images else ""
    return name, " ".join(item.instruction.split())


def _answer(value: Any) -> dict[str, Any]:
    """What a log's script extracted, as a row: two numbers are a point, four a box, lists of them several.

    Zeros are how logs write that nothing could be read.
    """
    if not value and value != 0:
        return {}
    many = isinstance(value, list) and isinstance(value[0], list)
    entries = value if many else [value]
    widths = {len(entry) if isinstance(entry, list) else 0 for entry in entries}
    one, several = _WIDTHS.get(widths.pop() if len(widths) == 1 else 0, _WIDTHS[4])
    try:
        rounded = [[round(part, DIGITS) for part in numbers(entry)] for entry in entries]
    except ValueError:
        return {one: value}  # no numbers: read_row says that it is malformed
    return {several if many else one: rounded if many else rounded[0]} if any(map(any, rounded)) else {}


def _verdict(value: Any) -> bool | None:
    """A log's own verdict: "correct" or another word, or 0 and 1. Raises ValueError."""
    if value is None or isinstance(value, str):
        return None if value is None else value == "correct"
    if value not in (0, 1):
        raise ValueError(f"its verdict {value!r} is neither 0 nor 1")
    return bool(value)


def _text(value: Any) -> str | None:
    return None if value is None else words(value)


def _truth(value: Any, space: str) -> Truth:
    """A box in the log's unit; thousandths become parts of one."""
    four = numbers(value, 4)
    if space == "pixel":
        return Truth(boxes=(box(four),))
    return Truth(boxes=(unit_box([part / (1000 if space == "thousand" else 1) for part in four]),))


def _sspro(row: Mapping[str, Any], place: int, where: str, answer_kind: str, space: str) -> Entry:
    """A row of ScreenSpot-Pro's log. On a target that is not there, which has no `bbox` or a negative one, the log
    keeps that the model declined in its verdict only.
    """
    bbox, verdict, answer = row.get("bbox"), _verdict(row.get("correctness")), _answer(row["pred"])
    four = None if bbox is None else numbers(bbox)[:4]  # some copies carry the rest of a polygon
    absent = row.get("gt_type") == "negative" or (four is not None and len(four) == 4 and max(four) < 0)
    if four is None and not absent:
        raise KeyError("bbox")
    item = BenchmarkItem(
        id=identity(row.get("id", row.get("idx", place))),
        images=(picture_of(row),),
        instruction=words(row.get("prompt_to_evaluate", row.get("instruction", ""))),
        truth=Truth(absent=True) if absent else _truth(four, space),
        answer_kind=answer_kind,
        groups={key: str(row[key]) for key in _GROUPS if isinstance(row.get(key), str)},
        frame="pixel" if space == "pixel" else "unit",
    )
    if absent and verdict and not answer:
        answer = {"absent": True}
    return Entry(item, answer, space, _text(row.get("raw_response")), verdict, where)


def _vlm_r1(row: Mapping[str, Any], place: int, where: str, answer_kind: str, space: str) -> Entry:
    question = words(row.get("question", ""))
    item = BenchmarkItem(
        id=str(place),
        images=(ItemImage(words(row.get("image", ""))),),
        instruction=question.partition("sentence describes: ")[2].rstrip(".") or question,
        truth=_truth(row["ground_truth"], space),
        answer_kind=answer_kind,
        frame="pixel" if space == "pixel" else "unit",
    )
    answer, output = _answer(row["extracted_answer"]), _text(row.get("model_output"))
    return Entry(item, answer, space, output, _verdict(row.get("correct")), where)


def _mig_bench(row: Mapping[str, Any], place: int, where: str, answer_kind: str, space: str) -> Entry:
    item = BenchmarkItem(
        id=str(place),
        images=(ItemImage(""),),
        instruction=words(row["question"]),
        truth=Truth(boxes=(as_written(row["groundtruth"]),)),
        answer_kind=answer_kind,
        groups={"task": words(row["task"])} if "task" in row else {},
        frame="unit",
    )
    unit = "thousand" if space == "thousand" else "unit"
    return Entry(item, _answer(row["filter_answer"]), unit, _text(row.get("answer")), None, where)


def prediction_rows(path: Path, name: str | None, items: Sequence[BenchmarkItem]) -> Iterator[Row]:
    """The rows of a predictions file of ours (`name` None) or of a submission, each with its name."""
    if name is None:
        yield from read_rows(path)
    else:
        yield from ((f"{path}: prediction {row['id']}", row) for row in submission_rows(path, name, items))


def submission_rows(path: Path, name: str, items: Sequence[BenchmarkItem]) -> Iterator[dict[str, Any]]:
    """A submission as rows of our own predictions format.

    Raises:
        BrokenRow: a row without the keys of the format, named.
    """
    if name == "coco":
        yield from _by_image(read_rows(path), items)
        return
    read = {"moment_detr": _moment_detr, "grounding_suite": _grounding_suite, "ref_l4": _ref_l4}[name]
    for where, row in read_rows(path):
        with naming(f"{where}: not a row of a {name} submission"):
            ours = read(row)
        yield ours


def _moment_detr(row: Mapping[str, Any]) -> dict[str, Any]:
    windows = row["pred_relevant_windows"]
    if not isinstance(windows, list) or not all(isinstance(w, list) and len(w) in (2, 3) for w in windows):
        raise ValueError("pred_relevant_windows is a list of [start, end, score]")
    scores = [number(w[2]) if len(w) == 3 else 1.0 for w in windows]
    return {
        "id": identity(row["qid"]),
        "spans": [w[:2] for w in windows],
        "scores": scores,
        "saliency": row.get("pred_saliency_scores"),
    }


def _grounding_suite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": identity(row["idx"]), "box": row.get("box") or row.get("predicted_box")}


def _ref_l4(row: Mapping[str, Any]) -> dict[str, Any]:
    four, form = row["pred_bbox"], row.get("format", "xyxy")
    if form not in ("xyxy", "xywh"):
        raise ValueError(f"format {form!r} is neither xyxy nor xywh")
    if form == "xywh" and four is not None:
        four = _far_corner(four)
    return {"id": identity(row["id"]), "box": four}


def _far_corner(xywh: Any) -> XYXY:
    """Corner, width, height -> two corners, also where a model answers a negative width. Raises ValueError."""
    x, y, w, h = numbers(xywh, 4)
    return x, y, x + w, y + h


def _by_image(rows: Iterator[Row], items: Sequence[BenchmarkItem]) -> Iterator[dict[str, Any]]:
    """COCO results, gathered per item; labels are the names of the categories.

    An image without results has none: that is how a detector says that there is nothing.
    """
    places = {}
    for item in items:
        for index, image in enumerate(item.meta.get("image_ids", [item.meta.get("coco_image_id", item.id)])):
            if str(image) in places:
                raise UsageError(f"image id {image} is in several sets: give one of them with --data FILE")
            places[str(image)] = item, index
    gathered: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for where, row in rows:
        with naming(f"{where}: not a row of COCO results"):
            name, category = identity(row["image_id"]), row["category_id"]
            if name not in places:
                raise ValueError(f"the benchmark has no image {name}")
            item, index = places[name]
            known = item.meta.get("category_ids")
            if known is not None and category not in known:
                raise ValueError(f"the benchmark has no category {category!r}")
            entry = gathered[item.id]
            entry["boxes"].append(_far_corner(row["bbox"]))
            entry["scores"].append(number(row["score"]))
            entry["labels"].append(item.meta.get("categories", {}).get(category, f"category {category}"))
            entry["images"].append(index)
    for item in items:
        yield {"id": item.id, **gathered[item.id]} if item.id in gathered else {"id": item.id, "absent": True}
