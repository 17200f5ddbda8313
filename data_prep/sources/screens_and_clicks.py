"""Screenshots with the place that an instruction leads to: SE-GUI, GTA1, UGround, GUI-R1, OS-Atlas, ShowUI.

Sets of this kind whose answers are written as conversations (Jedi, Aguvis) are in `data_prep.sources.chats`.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from data_prep import Item, Reject
from data_prep.pipeline.conversations import Exchange, exchanges, image_names, sound
from data_prep.pipeline.conversion import (
    Rejected,
    box_in,
    box_or_point_in,
    convert_rows,
    instruction,
    number,
    numbered,
    pixel_box,
    point_in,
)
from data_prep.pipeline.presets import Conversion, row_source
from data_prep.pipeline.readers import Row, read_annotations
from data_prep.sources import CARDS
from data_prep.sources.chats import question_arguments, unwrapped
from grounding.sample import Sample
from grounding.wording import words_alone


@row_source(
    **CARDS["se_gui"],
    arguments=question_arguments,
    flags={"--unit": {"choices": ("pixel", "thousandth"), "default": "pixel"}},
    space=lambda args: f"--unit {args.unit}",
)
def se_gui(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """{"images": ["a.png"], "bbox": [x1, y1, x2, y2], "conversations": [system?, human, gpt]}

    SE-GUI writes pixels, GTA1's grounding data (HelloKKMe/grounding_dataset) thousandths: `--unit thousandth`.
    """
    picture = run.folder(image_names(row)[0].removeprefix(run.args.image_prefix))
    size = picture[0].width, picture[0].height
    in_pixels = run.args.unit == "pixel"
    first = next(exchanges(row), None)
    if first is None:
        raise Rejected("empty instruction", "no exchange")
    question = unwrapped(words_alone(sound(first.question)), run.args)
    run.spaces.add([number(n) for n in row["bbox"]], size, size if in_pixels else (1000, 1000))
    box = pixel_box(row["bbox"], picture[0]) if in_pixels else box_in(1000, row["bbox"])
    yield run.item(where, [picture], question, box)


_TUPLE = re.compile(r"\s*[(\[]?\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){1,3})\s*[)\]]?\s*")
_WRAPPING = re.compile(r"^.*?Description:\s*", re.DOTALL)


@row_source(
    **CARDS["uground"],
    flags={"--unit": {"type": float, "default": 1000.0, "help": "number that stands for a whole side (1000)"}},
    space=lambda args: f"--unit {args.unit:g}",
)
def uground(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
    """{"image": bytes, "width", "height", "conversations": JSON text}, several instructions for each web screenshot.

    Answers are "(x, y)" or "(x1, y1, x2, y2)" in thousandths of the sides. `--unit 999` reads them as bins 0..999
    whose last stands for the edge.
    """
    picture = run.inside_row(where, row["image"], row.get("width"), row.get("height"))
    unit = run.args.unit

    def answered(where: str, exchange: Exchange) -> Iterator[Item]:
        question = words_alone(sound(exchange.question))
        numbers = _numbers(sound(exchange.answer))
        run.spaces.add(numbers, (picture[0].width, picture[0].height), (unit, unit))
        asked = instruction(_WRAPPING.sub("", question))
        yield run.item(where, [picture], asked, box_or_point_in(unit, numbers))

    yield from convert_rows(numbered(where, exchanges(row)), answered)


def _numbers(text: str) -> list[float]:
    """The numbers of "(x, y)" or "(x1, y1, x2, y2)"."""
    match = _TUPLE.fullmatch(text)
    numbers = [float(part) for part in match[1].split(",")] if match else []
    if len(numbers) not in (2, 4):
        raise Rejected("wrong format", f"answer {text[:80]!r}")
    return numbers


@row_source(**CARDS["gui_r1"])
def gui_r1(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """{"image": bytes | {"bytes"}, "instruction", "history", "task_type": "low" | "high", "gt_action", "gt_bbox",
    "gt_input_text"}; gt_bbox is a point [x, y] or a box [x1, y1, x2, y2], in fractions.

    Only clicks point at something; rows of other actions are passed over.
    """
    if row["gt_action"] != "click":
        return
    picture = run.inside_row(where, row["image"])
    target = box_or_point_in(1, row["gt_bbox"])
    meta = {"task_type": str(row.get("task_type", "")), "history": str(row.get("history", ""))}
    yield run.item(where, [picture], row["instruction"], target, meta=meta)


def _os_atlas_rows(args: Namespace) -> Iterator[Row]:
    """A row for each element of a screenshot."""
    for where, row in read_annotations(args):
        elements = row.get("elements") if isinstance(row, dict) else None
        if not isinstance(elements, list):
            yield where, row
            continue
        for place, element in numbered(where, elements):
            known = {"img_filename": row.get("img_filename")}
            yield place, {**known, **element} if isinstance(element, dict) else element


@row_source(**CARDS["os_atlas"], rows=_os_atlas_rows)
def os_atlas(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """{"img_filename": "a.png", "instruction": "...", "bbox": [0.1, 0.2, 0.3, 0.4], "data_type": "icon"}, or one row
    for each screenshot: {"img_filename", "elements": [{"instruction", "bbox", "data_type"}, ...]}; fractions.
    """
    picture = run.folder(row["img_filename"])
    yield run.item(where, [picture], instruction(row["instruction"]), box_in(1, row["bbox"]), meta=_data_type(row))


def _showui_rows(args: Namespace) -> Iterator[Row]:
    """(screenshot, element) for each element of a screenshot."""
    for where, row in read_annotations(args):
        if isinstance(row, dict) and isinstance(row.get("element"), list):
            yield from numbered(where, ((row, element) for element in row["element"]))
        else:
            yield where, row if isinstance(row, Rejected) else Rejected("wrong format", "no list of elements")


@row_source(
    **CARDS["showui"],
    rows=_showui_rows,
    flags={"--target": {"choices": ("box", "point"), "default": "box"}},
)
def showui(run: Conversion, where: str, row: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[Item]:
    """{"img_url": "a.png", "img_size": [w, h], "element": [{"instruction", "bbox", "point", "data_type"?}, ...]};
    fractions.
    """
    screen, element = row
    picture = run.folder(screen["img_url"], *screen.get("img_size", (None, None)))
    target = box_in(1, element["bbox"]) if run.args.target == "box" else point_in(1, element["point"])
    yield run.item(where, [picture], element["instruction"], target, meta=_data_type(element))


def _data_type(element: dict[str, Any]) -> dict[str, str]:
    return {"data_type": str(element["data_type"])} if element.get("data_type") else {}
