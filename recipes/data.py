"""Samples as the rows TRL's trainers read: conversational prompts, images opened only when a batch needs them.

Columns of a row (a generation batch or a collator sees nothing else):
    prompt      one user message (and a system message where the recipe has one), images and text in recipe order
    images      PIL images, RGB
    sample      JSON text of `grounding.sample.to_row`
    sizes       JSON text, [[width, height, input_width, input_height], ...], one per image
    expect      what the prompt asks for: box, point, ...
    completion  the right answer in the model's own words (supervised stages only)
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable
from PIL import Image
from pyarrow import parquet
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from grounding.answer import ImageSize
from grounding.completion import check_grammar, opened_by, render_completion
from grounding.decoding import opening
from grounding.dialects import Dialect, get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.io import open_image, read_samples
from grounding.sample import Sample, from_row, to_row
from models.asking import messages, prompt_text, question
from models.loading import SeenSizes
from recipes.config import DataSpec, ModelSpec
from recipes.taught import TAUGHT, collate_taught
from tools.teaching import teach
from tools.toolbox import Toolbox

log = logging.getLogger("fovea")

SUFFIXES = (".parquet", ".jsonl")
_CHUNK = 4096
_SCHEMA = pa.schema([("row", pa.large_string()), ("root", pa.string()), ("expect", pa.string())])


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
        others = sorted({file.stem for suffix in SUFFIXES for file in given.glob(f"*{suffix}")})
        there = f"it has {', '.join(others)}: set the section's `split`" if others else "it has no other split either"
        raise UsageError(f"data {path}: no {split}.jsonl or {split}.parquet in this folder; {there}")
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
        toolbox: tools it may call before it answers; samples are then taught with their turns.

    Raises (when a row is made):
        BrokenRow: a sample with turns where there are no tools to call, or with turns that cannot be taught.
    """

    model: ModelSpec
    dialect: Dialect
    processor: Any
    seen: SeenSizes
    with_completion: bool = False
    toolbox: Toolbox | None = None

    def row(self, sample: Sample, images: list[Image.Image], expect: str) -> dict[str, Any]:
        sizes = self.seen.of(sample.images)
        row = {
            "prompt": self.prompt(sample, expect, sizes),
            "images": images,
            "sample": json.dumps(to_row(sample), ensure_ascii=False),
            "sizes": json.dumps([[s.width, s.height, s.input_width, s.input_height] for s in sizes]),
            "expect": expect,
        }
        if self.with_completion and self.toolbox is not None:
            asked = self.question(sample, expect, sizes)
            row[TAUGHT] = teach(self.toolbox, sample, images, question=asked, answer_kind=expect)
            row["completion"] = [{"role": "assistant", "content": row[TAUGHT].text}]
        elif self.with_completion:
            if sample.turns:
                raise BrokenRow(f"sample {sample.id!r}", "has turns, but the stage has no `tools` to call in them")
            row["completion"] = [{"role": "assistant", "content": self.completion(sample, sizes)}]
        return row

    def question(self, sample: Sample, expect: str, sizes: tuple[ImageSize, ...]) -> str:
        text = question(self.model.profile, sample.question, expect, sizes)
        return text if self.toolbox is None else self.toolbox.question(text)

    def prompt(self, sample: Sample, expect: str, sizes: tuple[ImageSize, ...]) -> list[dict[str, Any]]:
        text = self.question(sample, expect, sizes)
        return messages(text, len(sizes), image_first=self.model.image_first, system=self.model.system)

    def completion(self, sample: Sample, sizes: tuple[ImageSize, ...]) -> str:
        answer = self.dialect.render(sample.target, sizes)
        told = sample.thought is not None and self.model.grammar != "bare"
        thought = self.dialect.render_thought(sample.thought, sizes) if told else None
        grammar = check_grammar(self.model.grammar)
        opened = opening(self.processor, grammar)
        return opened + render_completion(answer, thought, grammar, opened=opened)


def check_data(spec: DataSpec, model: ModelSpec) -> None:
    """Raise `UsageError` when a file or the dialect does not exist; rows are checked when the stage starts."""
    get_dialect(model.dialect)
    for path in spec.path:
        data_file(path, spec.split)


def count_rows(spec: DataSpec) -> int:
    """How many samples a stage has, without reading them."""
    total = 0
    for path in spec.path:
        file = data_file(path, spec.split)
        if file.suffix == ".parquet":
            count = parquet.read_metadata(file).num_rows
        else:
            with file.open("rb") as lines:
                count = sum(1 for line in lines if line.strip())
        total += count if spec.limit is None else min(count, spec.limit)
    return total


@dataclass(frozen=True)
class Stored:
    """The samples of a stage in memory, as little of them as there can be.

    Attributes:
        table: columns row (JSON of a sample), root (its folder) and expect.
        sizes: the first image of each size: (width, height) -> (id of the sample, path).
        thoughtless: how many samples have no thought.
        example: index of the first sample with a thought, else 0.
        kinds: the first sample of each source and kind: (source, kind) -> index.
    """

    table: pa.Table
    sizes: dict[tuple[int, int], tuple[str, str]]
    thoughtless: int
    example: int
    kinds: dict[tuple[str, str], int]


def stored(spec: DataSpec) -> Stored:
    """Read and check the samples of a section, once for all that ask.

    Raises:
        UsageError: no such file, or no samples in it.
        BrokenRow: a row that is not a valid sample.
    """
    files = [data_file(path, spec.split) for path in spec.path]
    return _stored(spec, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache(maxsize=4)
def _stored(spec: DataSpec, files: tuple[tuple[str, int, int], ...]) -> Stored:
    batches: list[pa.RecordBatch] = []
    sizes: dict[tuple[int, int], tuple[str, str]] = {}
    kinds: dict[tuple[str, str], int] = {}
    thoughtless, thoughtful, total = 0, None, 0
    rows: list[dict[str, Any]] = []
    for name, _, _ in files:
        file = Path(name)
        ask = spec.answer_kind or _manifest_ask(file.parent)
        for sample in read_samples(file, limit=spec.limit):
            text = json.dumps(to_row(sample), ensure_ascii=False)
            rows.append({"row": text, "root": str(file.parent), "expect": ask or sample.answer_kind})
            for image in sample.images:
                sizes.setdefault((image.width, image.height), (sample.id, image.path))
            if sample.thought is None:
                thoughtless += 1
            elif thoughtful is None:
                thoughtful = total
            kinds.setdefault((sample.source, sample.kind), total)
            total += 1
            if len(rows) == _CHUNK:
                batches.append(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                rows = []
    batches.append(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
    if not total:
        raise UsageError(f"data {', '.join(spec.path)}: no samples")
    return Stored(pa.Table.from_batches(batches), sizes, thoughtless, thoughtful or 0, kinds)


def check_images(spec: DataSpec, processor: Any) -> None:
    """Ask the processor about every size of image there is in the data, without opening any.

    Raises:
        BrokenRow: naming the sample whose image the model cannot take, or a row that is no sample.
    """
    count = getattr(processor.image_processor, "get_number_of_image_patches", None)
    for (width, height), (sample, path) in stored(spec).sizes.items() if count is not None else ():
        try:
            count(height, width, {})
        except ValueError as error:
            reason = f"the model cannot take {path}, {width}x{height} pixels: {error}"
            raise BrokenRow(f"sample {sample!r}", " ".join(reason.split())) from error


def example(
    spec: DataSpec, model: ModelSpec, processor: Any, *, with_completion: bool, toolbox: Toolbox | None = None
) -> dict[str, Any]:
    """A row of the data, with a thought where there is one; without its images, unless turns are taught.

    Raises:
        UsageError: the chat template asks otherwise than it teaches, or leaves out a part of the answer.
    """
    table = stored(spec)
    row = table.table.slice(table.example, 1).to_pylist()[0]
    sample = from_row(json.loads(row["row"]))
    builder = RowBuilder(model, get_dialect(model.dialect), processor, SeenSizes(processor), with_completion, toolbox)
    turns = toolbox is not None and with_completion
    images = [open_image(row["root"], image) for image in sample.images] if turns else []
    made = builder.row(sample, images, row["expect"])
    asked = prompt_text(processor, made["prompt"], tools=None if toolbox is None else toolbox.schemas)
    render_completion("", grammar=check_grammar(model.grammar), opened=opened_by(asked, check_grammar(model.grammar)))
    if with_completion and toolbox is None:
        words = [{"type": "text", "text": made["completion"][0]["content"]}]
        chat = [*made["prompt"], {"role": "assistant", "content": words}]
        whole = prompt_text(processor, chat, answered=True)
        if not whole.startswith(asked):
            raise UsageError(
                f"model {model.path}: its chat template renders a question otherwise where an answer follows, so it "
                "would be trained on other prompts than it is asked with; correct chat_template.jinja"
            )
        sizes = [ImageSize(*numbers) for numbers in json.loads(made["sizes"])]
        parts = {"answer": builder.dialect.render(sample.target, sizes)}
        if sample.thought and model.grammar != "bare":
            parts["thought"] = builder.dialect.render_thought(sample.thought, sizes)
        for name, text in parts.items():
            if text.strip() not in whole[len(asked) :]:
                raise UsageError(
                    f"model {model.path}: its chat template leaves the {name} out of what is taught; correct "
                    "chat_template.jinja"
                )
        made["taught"] = whole[len(asked) :]
    return {**made, "asked": asked}


def build_dataset(
    spec: DataSpec, model: ModelSpec, processor: Any, *, with_completion: bool = False, toolbox: Toolbox | None = None
) -> Dataset:
    """The data set of a stage. Rows are checked now, images are opened when a row is read.

    Raises:
        UsageError: no such file, or no samples in it.
        BrokenRow: a row that is not a valid sample (now), an image that cannot be used (when it is read).
    """
    found = stored(spec)
    if with_completion and model.grammar != "bare" and found.thoughtless:
        log.warning(
            "data %s: %d of %d samples have no thought, so the answer to learn is an empty one; write thoughts with "
            "`python -m data_prep cot`, or set model.grammar to bare",
            ", ".join(spec.path),
            found.thoughtless,
            found.table.num_rows,
        )
    builder = RowBuilder(model, get_dialect(model.dialect), processor, SeenSizes(processor), with_completion, toolbox)
    return Dataset(InMemoryTable(found.table)).with_transform(LazyRows(builder))


@dataclass(frozen=True)
class LazyRows:
    """The transform behind the data set: stored JSON text in, trainer rows out."""

    builder: RowBuilder

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        known: dict[tuple[str, ...], dict[str, Any]] = {}  # a batch of rollouts asks for every row several times
        rows = []
        for key in zip(batch["row"], batch["root"], batch["expect"], strict=True):
            if key not in known:
                text, root, expect = key
                sample = from_row(json.loads(text))
                images = [open_image(root, image) for image in sample.images]
                known[key] = self.builder.row(sample, images, expect)
            rows.append(known[key])
        return {key: [row[key] for row in rows] for key in rows[0]}


@dataclass
class WholeRows(DataCollatorForVisionLanguageModeling):
    """TRL's collator, which cuts rows at `max_length`; here a longer row is an error, for its end is the answer."""

    longest: int | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch. Raises `BrokenRow` for a row longer than `longest` tokens, or without an answer to learn."""
        taught = TAUGHT in examples[0]
        batch = collate_taught(self.processor, examples) if taught else super().torch_call(examples)
        lengths, taught = batch["attention_mask"].sum(1).tolist(), (batch["labels"] != -100).sum(1).tolist()
        for row, length, labels in zip(examples, lengths, taught, strict=True):
            name = f"sample {json.loads(row['sample'])['id']!r}"
            if self.longest is not None and length > self.longest:
                raise BrokenRow(name, f"needs {length} tokens, args.max_length is {self.longest}; raise it, or null")
            if not labels:
                raise BrokenRow(name, "no token of its answer is learned")
        return batch


def whole_rows(args: SFTConfig, processor: Any) -> WholeRows:
    """The collator of a stage that trains on right answers."""
    only = args.completion_only_loss is not False
    return WholeRows(processor, completion_only_loss=only, longest=args.max_length)


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
