"""Conversations: the dialect of their answers, ms-swift's `objects`, VLM-R1's rows, and plain lists of numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_prep.importing.columns import numbers_of
from data_prep.importing.records import MarkedRegion, Record
from data_prep.pipeline.conversations import exchanges, image_names, sound, without_references
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.readers import Row
from data_prep.sources.referring import VLM_R1_ANSWER, VLM_R1_QUESTION
from grounding.completion import END_THINK
from grounding.wording import words_alone

CHAT_KEYS = ("conversations", "messages")
# What only one dialect writes, or only those of one space. JSON, plain lists and `start_box` are in several spaces.
MARKUP: tuple[tuple[str, str], ...] = (
    (r"<\|box_start\|>\s*\(", "qwen2_vl"),
    (r"<box>\s*\[\[", "internvl"),
    (r"<box>\s*\(", "qwen_vl"),
    (r"<patch_index_\d+>", "kosmos2"),
    (r"<loc_\d+>", "florence2"),
    (r"<loc\d{4}>", "paligemma"),
    (r'"box_2d"\s*:', "gemini"),
    (r"<points? x1?=", "molmo"),
    (r"pyautogui\.\w+\(x=0?\.\d", "aguvis"),
)
_PLACE = re.compile(r"[\[(]\s*(-?[\d.]+(?:\s*,\s*-?[\d.]+){3}|-?[\d.]+\s*,\s*-?[\d.]+)\s*[\])]")
Read = Callable[[str, dict[str, Any]], Record]


def format_of(row: Mapping[str, Any]) -> str:
    """Whose row it is: ShareGPT (LLaVA, LLaMA-Factory), ms-swift or VLM-R1."""
    if "objects" in row:
        return "ms-swift"
    if "problem" in row:
        return "VLM-R1"
    turns = row.get("conversations") or row.get("messages") or ()
    first = str(turns[0].get("value", turns[0].get("content"))) if turns and isinstance(turns[0], dict) else ""
    answers = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"]
    plain = bool(answers) and all(isinstance(answer, list) for answer in answers)
    return "VLM-R1" if plain or VLM_R1_QUESTION.search(first) else "ShareGPT"


def dialect_of(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The dialect whose markup the answers have; None where they are JSON or plain lists, which say no space."""
    for row in rows:
        for answer in _answers(row):
            for pattern, dialect in MARKUP:
                if re.search(pattern, answer):
                    return dialect
    return None


def thinks(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether answers have a thought before them."""
    return any(END_THINK in answer for row in rows for answer in _answers(row))


def _answers(row: Mapping[str, Any]) -> list[str]:
    try:
        return [exchange.answer for exchange in exchanges(dict(row)) if isinstance(exchange.answer, str)]
    except Rejected:
        return []


def chat_records(rows: Iterable[Row], read: Read) -> Iterator[Row]:
    """The records that `read` makes of the rows."""
    for where, row in rows:
        try:
            if isinstance(row, Rejected):
                raise row
            yield where, read(where, row)
        except Rejected as error:
            yield where, error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            yield where, Rejected("wrong format", repr(error))


def _image(row: Mapping[str, Any]) -> str:
    names = image_names(dict(row))
    if len(names) > 1:
        raise Rejected("several images", f"{len(names)}; read such rows with --dialect, or with a mapping (`hub`)")
    return names[0]


def plain_lists(where: str, row: dict[str, Any]) -> Record:
    """Answers that are lists of numbers, alone or in JSON; VLM-R1's `problem` and `solution`."""
    regions: list[MarkedRegion] = []
    if "problem" in row:
        pairs = [(str(row.get("normal_caption") or row["problem"]), row["solution"])]
    else:
        turns = row.get("conversations") or row.get("messages")
        if (
            isinstance(turns, list)
            and len(turns) > 1
            and isinstance(turns[1], dict)
            and isinstance(turns[1].get("value"), list)
        ):
            pairs = [(str(turns[0]["value"]), turns[1]["value"])]
        else:
            pairs = [(sound(each.question), sound(each.answer)) for each in exchanges(row)]
    for count, (question, answer) in enumerate(pairs, 1):
        place = f"{where}-{count}" if len(pairs) > 1 else where
        text, wrapped = VLM_R1_QUESTION.subn("", words_alone(question))
        text = text.strip().removesuffix(".") if wrapped else text.strip()
        if isinstance(answer, str):
            found = [numbers_of(match[1]) for match in _PLACE.finditer(VLM_R1_ANSWER.sub("", answer))]
        else:
            found = [answer] if answer and not isinstance(answer[0], list) else list(answer)
        if not found:
            regions.append(MarkedRegion(place, text, (), error=Rejected("answer is no_answer", str(answer)[:200])))
        for number, numbers in enumerate(found, 1):
            own = f"{place}-{number}" if len(found) > 1 else place
            kind: Any = "point" if len(numbers) == 2 else "box"
            regions.append(MarkedRegion(own, text, numbers, kind, label=False))
    return Record(_image(row), regions, row.get("width"), row.get("height"))


_SLOT = re.compile(r"<(ref-object|bbox)>")


def swift_objects(bbox_type: str) -> Read:
    """ms-swift: `<ref-object>` and `<bbox>` in the texts stand for the entries of `objects.ref` and `objects.bbox`.

    A box of an answer is what the words before it name, where the answer names some; else what the question asks.
    """

    def read(where: str, row: dict[str, Any]) -> Record:
        objects = json.loads(row["objects"]) if isinstance(row["objects"], str) else row["objects"]
        if (objects.get("bbox_type") or "real") != bbox_type:
            raise Rejected("wrong format", f"bbox_type {objects.get('bbox_type')!r} among rows of {bbox_type!r}")
        refs, boxes = iter(objects.get("ref") or ()), iter(objects.get("bbox") or ())
        regions: list[MarkedRegion] = []
        question = ""
        for turn in row["messages"]:
            text, named, said = str(turn["content"]), "", []
            words: list[str] = []
            end = 0
            for slot in _SLOT.finditer(text):
                words.append(text[end : slot.start()])
                end = slot.end()
                if slot[1] == "ref-object":
                    named = str(next(refs))
                    words.append(named)
                else:
                    said.append((named, next(boxes)))
            words.append(text[end:])
            if turn["role"] == "user":
                question = "" if said else words_alone(without_references("".join(words)))
                continue
            for called, numbers in said if turn["role"] == "assistant" else ():
                place = f"{where}-{len(regions) + 1}"
                kind: Any = "point" if len(numbers) == 2 else "box"
                asked = called or question
                regions.append(MarkedRegion(place, asked, numbers, kind, label=False))
        if not regions:
            raise Rejected("answer is no_answer", "no answer has a <bbox>")
        return Record(_image(row), regions)

    return read


def swift_unit(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """`bbox_type` of the first row and the unit it means."""
    objects = rows[0]["objects"]
    objects = json.loads(objects) if isinstance(objects, str) else objects
    kind = (objects or {}).get("bbox_type") or "real"
    return kind, {"real": "pixel", "norm1": "fraction"}.get(kind, "pixel")
