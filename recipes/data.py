"""Samples as the rows TRL's trainers read: conversational prompts, images opened only when a batch needs them.

Columns of a row (a generation batch or a collator sees nothing else):
    prompt      one user message (and a system message where the recipe has one), images and text in recipe order
    images      PIL images, RGB
    sample      JSON text of `grounding.sample.to_row`
    sizes       JSON text, [[width, height, seen_width, seen_height], ...], one per image
    expect      what the prompt asks for: box, point, ...
    completion  the right answer in the model's own words (supervised stages only)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from grounding.answer import ImageSize
from grounding.completion import THINK, render_completion
from grounding.decoding import opened_by
from grounding.dialects import Dialect, get_dialect
from grounding.errors import UsageError
from grounding.io import open_image, read_samples
from grounding.sample import Sample, from_row, to_row
from models.asking import messages, question
from models.loading import SeenSizes
from recipes.config import DataSpec, ModelSpec

log = logging.getLogger("fovea")

SUFFIXES = (".parquet", ".jsonl")


def data_file(path: str, split: str) -> Path:
    """The file to read for a path of a recipe: the path itself, or the split's file in a data set folder.

    Raises:
        UsageError: there is none.
    """
    given = Path(path)
    if given.is_dir():
        for suffix in SUFFIXES:
            if (given / f"{split}{suffix}").is_file():
                return given / f"{split}{suffix}"
        raise UsageError(f"data {path}: no {split}.jsonl or {split}.parquet in this folder")
    if not given.is_file():
        raise UsageError(f"data {path}: no such file or folder; see `python -m data_prep --help` for how to make it")
    return given


@dataclass(frozen=True)
class RowBuilder:
    """Turns samples into trainer rows for one model.

    Attributes:
        model: the recipe's model section.
        dialect: that model's words.
        processor: that model's.
        seen: the size at which it shows an image.
        with_completion: add the right answer.
    """

    model: ModelSpec
    dialect: Dialect
    processor: Any
    seen: SeenSizes
    with_completion: bool = False

    def row(self, sample: Sample, images: list[Image.Image], expect: str) -> dict[str, Any]:
        sizes = self.seen.of(sample.images)
        row = {
            "prompt": self.prompt(sample, expect, sizes),
            "images": images,
            "sample": json.dumps(to_row(sample), ensure_ascii=False),
            "sizes": json.dumps([[s.width, s.height, s.seen_width, s.seen_height] for s in sizes]),
            "expect": expect,
        }
        if self.with_completion:
            row["completion"] = [{"role": "assistant", "content": self.completion(sample, sizes)}]
        return row

    def prompt(self, sample: Sample, expect: str, sizes: tuple[ImageSize, ...]) -> list[dict[str, Any]]:
        text = question(self.model.profile, sample.question, expect, sizes)
        return messages(text, len(sizes), image_first=self.model.image_first, system=self.model.system)

    def completion(self, sample: Sample, sizes: tuple[ImageSize, ...]) -> str:
        answer = self.dialect.render(sample.target, sizes)
        told = sample.thought is not None and self.model.grammar != "bare"
        thought = self.dialect.render_thought(sample.thought, sizes) if told else None
        text = render_completion(answer, thought=thought, grammar=self.model.grammar)
        opened = opened_by(self.processor)
        return opened + text.removeprefix(THINK) if opened else text


def check_data(spec: DataSpec, model: ModelSpec) -> None:
    """Raise `UsageError` when a file or the dialect does not exist; rows are checked when the stage starts."""
    get_dialect(model.dialect)
    for path in spec.path:
        data_file(path, spec.split)


def build_dataset(spec: DataSpec, model: ModelSpec, processor: Any, *, with_completion: bool = False) -> Dataset:
    """The data set of a stage. Rows are checked now, images are opened when a row is read.

    Raises:
        UsageError: no such file, or no samples in it.
        BrokenRow: a row that is not a valid sample (now), an image that cannot be used (when it is read).
    """
    rows = list(_rows(spec))
    if not rows:
        raise UsageError(f"data {', '.join(spec.path)}: no samples")
    thoughtless = sum(row["thoughtless"] for row in rows)
    if with_completion and model.grammar != "bare" and thoughtless:
        log.warning(
            "data %s: %d of %d samples have no thought, so the answer to learn is an empty one; write thoughts with "
            "`python -m data_prep cot`, or set model.grammar to bare",
            ", ".join(spec.path),
            thoughtless,
            len(rows),
        )
    builder = RowBuilder(model, get_dialect(model.dialect), processor, SeenSizes(processor), with_completion)
    return Dataset.from_list(rows).with_transform(LazyRows(builder))


@dataclass(frozen=True)
class LazyRows:
    """The transform behind the data set: stored JSON text in, trainer rows out."""

    builder: RowBuilder

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = []
        for text, root, expect in zip(batch["row"], batch["root"], batch["expect"], strict=True):
            sample = from_row(json.loads(text))
            rows.append(self.builder.row(sample, [open_image(root, image) for image in sample.images], expect))
        return {key: [row[key] for row in rows] for key in rows[0]}


def _rows(spec: DataSpec) -> Iterator[dict[str, Any]]:
    for path in spec.path:
        file = data_file(path, spec.split)
        ask = spec.ask or _manifest_ask(file.parent)
        for sample in read_samples(file, limit=spec.limit):
            text = json.dumps(to_row(sample), ensure_ascii=False)
            yield {
                "row": text,
                "root": str(file.parent),
                "expect": ask or sample.asks,
                "thoughtless": sample.thought is None,
            }


def _manifest_ask(folder: Path) -> str | None:
    """What a data set says it asks for."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    try:
        asks = json.loads(manifest.read_text(encoding="utf-8")).get("asks")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{manifest}: not a JSON object: {error}") from error
    return None if asks is None else str(asks)
