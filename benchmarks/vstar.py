"""V* Bench: small details in large images, as multiple choice; the boxes tell where one has to look."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.harness import judge
from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.files import corners, listed, naming, words
from benchmarks.harness.items import BenchmarkItem, Card, ItemImage, Prediction, Rule, Truth, Verdict
from benchmarks.harness.rows import load_json
from benchmarks.harness.words import plain
from grounding.errors import UsageError

_KINDS = ("direct_attributes", "relative_position")
_LETTERS = "ABCDEFGH"


@BENCHMARKS.register("vstar")
class VStar(Benchmark):
    """In the files the first option is always right, so options are shuffled, the same way in every run."""

    asks = "text_box"
    splits = ("test", *_KINDS)
    rule = Rule(over="kind")
    card = Card(
        title="V* Bench",
        paper="Wu and Xie 2023, V*, arXiv:2312.14135",
        get="https://huggingface.co/datasets/craigwu/vstar_bench",
        license="MIT (repository)",
        files="direct_attributes/ and relative_position/: NAME.json (question, options, bbox xywh) with NAME.jpg",
        rule="the chosen option is right: its letter, or its words. Micro average; the shuffle is seeded by the "
        "item's name.",
        size={"test": 191, "direct_attributes": 115, "relative_position": 76},
    )

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

    def judge(self, items: Sequence[BenchmarkItem], predictions: Sequence[Prediction], rule: Rule) -> list[Verdict]:
        verdicts = []
        for item, prediction in zip(items, predictions, strict=True):
            if prediction.text is None:
                verdicts.append(judge.unreadable(rule))
            else:
                verdicts.append(judge.RIGHT if _chosen(prediction.text, item) == item.truth.text else judge.WRONG)
        return verdicts


def _item(row: dict[str, Any], file: Path, kind: str) -> BenchmarkItem:
    image = next((p for p in sorted(file.parent.glob(f"{file.stem}.*")) if p.suffix != ".json"), None)
    if image is None:
        raise ValueError(f"no image {file.stem}.*")
    options = [words(option) for option in listed(row["options"])]
    if len(options) > len(_LETTERS) or len({plain(option) for option in options}) < len(options):
        raise ValueError(f"options {options} are more than {len(_LETTERS)}, or two are the same")
    right = options[0]
    random.Random(f"{kind}/{file.stem}").shuffle(options)
    choices = "\n".join(f"({letter}) {option}" for letter, option in zip(_LETTERS, options, strict=False))
    return BenchmarkItem(
        id=f"{kind}/{file.stem}",
        images=(ItemImage(f"{kind}/{image.name}"),),
        instruction=f"{words(row['question'])}\n{choices}",
        truth=Truth(boxes=tuple(corners(b) for b in row.get("bbox", ())), text=right),
        asks="text_box",
        groups={"kind": kind},
        meta={"options": options},
    )


def _chosen(text: str, item: BenchmarkItem) -> str | None:
    """The option an answer names: by a lone letter, else by its words; None when it names none or several."""
    options: list[str] = item.meta["options"]
    letter = text.strip().strip("().").upper()
    if len(letter) == 1 and letter in _LETTERS[: len(options)]:
        return options[_LETTERS.index(letter)]
    said = plain(text)
    named = [option for option in options if plain(option) == said] or [o for o in options if plain(o) in said]
    return named[0] if len(named) == 1 else None
