"""A question, its answer in words and the regions that prove it: RefChartQA and V* Bench."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark, Scored
from benchmarks.harness.io.data_sets import read_split
from benchmarks.harness.io.official_files import corners, listed, naming, words
from benchmarks.harness.io.row_files import load_json
from benchmarks.harness.items import BenchmarkItem, ItemImage, Prediction, Rule, Truth, Verdict, read_card
from benchmarks.harness.scoring import decide
from benchmarks.harness.scoring.average_precision import coco_ap
from benchmarks.harness.scoring.text_match import plain, relaxed_match
from grounding.errors import UsageError


@BENCHMARKS.register("refchartqa")
class RefChartQA(Benchmark):
    """Right is who answers right; grounding is AP@0.5."""

    answer_kind = "text_box"
    splits = ("test", "val", "train")
    rule = Rule(over="type")
    card = read_card(__file__, "refchartqa")

    def read(self, root: Path, split: str) -> Iterable[BenchmarkItem]:
        return read_split(root, split, self.answer_kind)

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        right = prediction.text is not None and relaxed_match(prediction.text, item.truth.text or "")
        return decide.RIGHT if right else decide.WRONG

    def summarize(self, scored: Scored) -> dict[str, Any]:
        drawn = [replace(item, truth=replace(item.truth, labels=())) for item in scored.items]
        return {"AP50": coco_ap(drawn, scored.answers)["AP50"]}


_KINDS = ("direct_attributes", "relative_position")
_LETTERS = "ABCDEFGH"


@BENCHMARKS.register("vstar")
class VStar(Benchmark):
    """In the files the first option is always right, so options are shuffled, the same way in every run."""

    answer_kind = "text_box"
    splits = ("test", *_KINDS)
    rule = Rule(over="kind")
    card = read_card(__file__, "vstar")

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        items = []
        for kind in _KINDS if split == "test" else (split,):
            files = sorted((root / kind).glob("*.json"))
            if not files:
                raise UsageError(f"{root}: has no {kind}/*.json; needed: {self.card.files}")
            for file in files:
                with naming(str(file)):
                    items.append(_item(load_json(file), file, kind))
        return items

    def verdict(self, item: BenchmarkItem, prediction: Prediction, rule: Rule) -> Verdict:
        if prediction.text is None:
            return decide.unreadable(rule)
        return decide.RIGHT if chosen(prediction.text, item.meta["options"]) == item.truth.text else decide.WRONG


def lettered(options: Sequence[str]) -> str:
    """Options as a question lists them, one a line."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(_LETTERS, options, strict=False))


def _item(row: dict[str, Any], file: Path, kind: str) -> BenchmarkItem:
    image = next((p for p in sorted(file.parent.glob(f"{file.stem}.*")) if p.suffix != ".json"), None)
    if image is None:
        raise ValueError(f"no image {file.stem}.*")
    options = [words(option) for option in listed(row["options"])]
    if len(options) > len(_LETTERS) or len({plain(option) for option in options}) < len(options):
        raise ValueError(f"options {options} are more than {len(_LETTERS)}, or two are the same")
    right = options[0]
    random.Random(f"{kind}/{file.stem}").shuffle(options)
    choices = lettered(options)
    return BenchmarkItem(
        id=f"{kind}/{file.stem}",
        images=(ItemImage(f"{kind}/{image.name}"),),
        instruction=f"{words(row['question'])}\n{choices}",
        truth=Truth(boxes=tuple(corners(b) for b in row.get("bbox", ())), text=right),
        answer_kind="text_box",
        groups={"kind": kind},
        meta={"options": options},
    )


def chosen(text: str, options: Sequence[str]) -> str | None:
    """The option an answer names: by a lone letter, else by its words; None when it names none or several."""
    letter = text.strip().strip("().").upper()
    if len(letter) == 1 and letter in _LETTERS[: len(options)]:
        return options[_LETTERS.index(letter)]
    said = plain(text)
    named = [option for option in options if plain(option) == said] or [o for o in options if plain(o) in said]
    return named[0] if len(named) == 1 else None
