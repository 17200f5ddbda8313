"""Samples as the rows TRL's trainers read: conversational prompts, images opened only when a batch needs them.

Columns of a row (a generation batch or a collator sees nothing else):
    index        its position in the data set
    prompt       one user message (and a system message where the recipe has one), images and text in recipe order
    images       PIL images, RGB
    sample       the `grounding.sample.Sample`
    sizes        tuple of `grounding.answer.ImageSize`, one per image
    answer_kind  what the prompt asks for: box, point, ...
    completion   the right answer in the model's own words (supervised stages only)
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from pyarrow import ArrowException, parquet
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from data_prep import SPLITS
from data_prep.importing.command import build_parser, describe_import, import_file
from data_prep.importing.recognize import TOOL_FILES
from grounding.answer import ImageSize
from grounding.completion import check_grammar, opened_by, render_completion
from grounding.decoding import opening
from grounding.dialects import Dialect, get_dialect
from grounding.errors import BrokenRow, FoveaError, UsageError
from grounding.io import open_image, read_samples, row_of
from grounding.sample import Sample, from_row, to_row
from models.loading import SeenSizes
from models.prompting import messages, prompt_text, question
from recipes.config import DataSpec, ModelSpec
from tools.teaching import teach
from tools.toolbox import Toolbox

log = logging.getLogger("fovea")

SUFFIXES = (".parquet", ".jsonl")
TAUGHT = "taught"  # column of the rows: `tools.teaching.Taught`
IGNORED = -100


IMPORTED = Path("data") / "imported"
"""Where files of other formats are converted to, each version of them once."""


def data_files(spec: DataSpec) -> list[Path]:
    """The files of samples to read for a section: of each of its paths, or of what that was imported to.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    return [_split_file(imported(path, spec.images, spec.space), path, spec.split) for path in spec.path]


def _split_file(given: Path, path: str, split: str) -> Path:
    """The path of a recipe itself, or the split's file in a data set folder."""
    if given.is_dir():
        for suffix in SUFFIXES:
            if (given / f"{split}{suffix}").is_file():
                return given / f"{split}{suffix}"
        others = sorted({file.stem for suffix in SUFFIXES for file in given.glob(f"*{suffix}")} - {"rejects"})
        there = f"it has {', '.join(others)}: set the section's `split`" if others else "it has no other split either"
        raise UsageError(f"data {path}: no {split}.jsonl or {split}.parquet in this folder; {there}")
    if not given.is_file():
        raise UsageError(f"data {path}: no such file or folder; see `python -m data_prep --help` for how to make it")
    return given


@lru_cache(maxsize=64)
def imported(path: str, images: str | None = None, space: str | None = None) -> Path:
    """`path`, or the data set that it was imported to where it is a file of annotations in another format.

    One process does it; the others find it done (`recipes.runner` sees to the order).

    Raises:
        UsageError: as `data_prep.importing.command.import_file`.
    """
    given = Path(path)
    if not _is_foreign(given):
        return given
    words = [path, *(["--images", images] if images else []), *(["--space", space] if space else [])]
    try:
        done = import_file(build_parser().parse_args(words), where=IMPORTED)
    except UsageError as error:
        told = str(error).replace("--images DIR", "data.images: DIR").replace("--space", "data.space:")
        raise UsageError(f"data {told}") from error
    for line in describe_import(given, done)[:-1]:
        log.info("data %s", line)
    return done.out


def _is_foreign(given: Path) -> bool:
    """Whether it is a file, or a folder of a tool, that has to be imported first."""
    if given.is_dir():
        ours = any((given / f"{split}{suffix}").is_file() for split in SPLITS for suffix in SUFFIXES)
        return not ours and any(next(given.glob(name), None) for name in TOOL_FILES)
    if not given.is_file():
        return False
    if given.suffix == ".parquet":
        try:
            return not {"schema", "target"} & set(parquet.read_schema(given).names)
        except (ArrowException, OSError):
            return False
    if given.suffix != ".jsonl":
        return True
    with given.open("rb") as lines:
        try:
            row = json.loads(next(filter(bytes.strip, lines), b"{}"))
        except ValueError:
            return False
    return isinstance(row, dict) and bool(row) and not {"schema", "target"} & set(row)


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

    def row(self, sample: Sample, images: list[Image.Image], answer_kind: str) -> dict[str, Any]:
        sizes = self.seen.of(sample.images)
        row = {
            "prompt": self.prompt(sample, answer_kind, sizes),
            "images": images,
            "sample": sample,
            "sizes": sizes,
            "answer_kind": answer_kind,
        }
        if self.with_completion and self.toolbox is not None:
            asked = self.question(sample, answer_kind, sizes)
            row[TAUGHT] = teach(self.toolbox, sample, images, question=asked, answer_kind=answer_kind)
            row["completion"] = [{"role": "assistant", "content": row[TAUGHT].text}]
        elif self.with_completion:
            if sample.turns:
                raise BrokenRow(f"sample {sample.id!r}", "has turns, but the stage has no `tools` to call in them")
            row["completion"] = [{"role": "assistant", "content": self.completion(sample, sizes)}]
        return row

    def question(self, sample: Sample, answer_kind: str, sizes: tuple[ImageSize, ...]) -> str:
        text = question(self.model.profile, sample.question, answer_kind, sizes)
        return text if self.toolbox is None else self.toolbox.question(text)

    def prompt(self, sample: Sample, answer_kind: str, sizes: tuple[ImageSize, ...]) -> list[dict[str, Any]]:
        text = self.question(sample, answer_kind, sizes)
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
    data_files(spec)


def count_rows(spec: DataSpec) -> int:
    """How many samples a stage has, without reading them."""
    total = 0
    for file in data_files(spec):
        if file.suffix == ".parquet":
            count = parquet.read_metadata(file).num_rows
        else:
            with file.open("rb") as lines:
                count = sum(1 for line in lines if line.strip())
        total += count if spec.limit is None else min(count, spec.limit)
    return total


class SampleFile:
    """The samples of a file by their index. Of each, only where its line begins and ends is kept in memory.

    Rows of a Parquet file are written to a temporary file as lines first.

    Args:
        path: .jsonl or .parquet.
        limit: at most so many, from the beginning.
    """

    def __init__(self, path: Path, limit: int | None):
        self.path, self._limit = path, limit
        lines = path.suffix != ".parquet"
        self._file = path.open("rb") if lines else tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        self._ends = array("q")  # begin and end of each line
        self._stamp = os.fstat(self._file.fileno())

    def read(self) -> Iterator[Sample]:
        """All of them in order, streamed; to be exhausted before any is asked for by its index.

        Raises:
            BrokenRow: a row that is not a valid sample.
        """
        end = 0
        for sample, line in self._rows():
            begin, end = end, end + len(line)
            if sample is not None:
                self._ends.extend((begin, end))
                yield sample
        self._file.flush()
        self._stamp = os.fstat(self._file.fileno())

    def _rows(self) -> Iterator[tuple[Sample | None, bytes]]:
        if self.path.suffix == ".parquet":
            for sample in read_samples(self.path, limit=self._limit):
                line = json.dumps(to_row(sample), ensure_ascii=False).encode() + b"\n"
                self._file.write(line)
                yield sample, line
            return
        for number, line in enumerate(self._file, start=1):
            if len(self) == self._limit:
                return
            where = f"{self.path}:{number}"
            yield from_row(row_of(line, where), where) if line.strip() else None, line

    def __len__(self) -> int:
        return len(self._ends) // 2

    def __getitem__(self, index: int) -> Sample:
        """Raises FoveaError where the file has been written to since it was read."""
        begin, end = self._ends[2 * index : 2 * index + 2]
        now = os.fstat(self._file.fileno())
        if (now.st_mtime_ns, now.st_size) != (self._stamp.st_mtime_ns, self._stamp.st_size):
            raise FoveaError(f"{self.path}: changed while it was being read; start the command again")
        where = f"{self.path}, sample {index + 1}"
        return from_row(row_of(os.pread(self._file.fileno(), end - begin, begin), where), where)

    def __deepcopy__(self, memo: dict[int, Any]) -> SampleFile:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Path, int | None]]:
        """As a path: a worker process that does not share this one's open files reads it anew."""
        return _read_file, (self.path, self._limit)


def _read_file(path: Path, limit: int | None) -> SampleFile:
    file = SampleFile(path, limit)
    for _ in file.read():
        pass
    return file


@dataclass(frozen=True)
class Stored:
    """The samples of a stage.

    Attributes:
        files: with what each says it asks for; None leaves it to the sample.
        sizes: the first image of each size: (width, height) -> (id of the sample, path).
        without_thought: how many samples have no thought.
        example: index of the first sample with a thought, else 0.
        kinds: the first sample of each source and kind: (source, kind) -> index.
    """

    files: tuple[tuple[SampleFile, str | None], ...]
    sizes: dict[tuple[int, int], tuple[str, str]]
    without_thought: int
    example: int
    kinds: dict[tuple[str, str], int]

    def __len__(self) -> int:
        return sum(len(file) for file, _ in self.files)

    def __getitem__(self, index: int) -> tuple[Sample, str, Path]:
        """A sample, what its prompt asks for, and the folder its images are in."""
        for file, answer_kind in self.files:
            if index < len(file):
                sample = file[index]
                return sample, answer_kind or sample.answer_kind, file.path.parent
            index -= len(file)
        raise IndexError(index)


def stored(spec: DataSpec) -> Stored:
    """Read and check the samples of a section, once for all that ask.

    Raises:
        UsageError: no such file, or no samples in it.
        BrokenRow: a row that is not a valid sample.
    """
    files = data_files(spec)
    return _stored(spec, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache(maxsize=4)
def _stored(spec: DataSpec, names: tuple[tuple[str, int, int], ...]) -> Stored:
    files = [SampleFile(Path(name), spec.limit) for name, _, _ in names]
    sizes: dict[tuple[int, int], tuple[str, str]] = {}
    kinds: dict[tuple[str, str], int] = {}
    without_thought, example, total = 0, None, 0
    for file in files:
        for sample in file.read():
            for image in sample.images:
                sizes.setdefault((image.width, image.height), (sample.id, image.path))
            if sample.thought is None:
                without_thought += 1
            elif example is None:
                example = total
            kinds.setdefault((sample.source, sample.kind), total)
            total += 1
    if not total:
        raise UsageError(f"data {', '.join(spec.path)}: no samples")
    asked = [spec.answer_kind or _manifest_kind(file.path.parent) for file in files]
    return Stored(tuple(zip(files, asked, strict=True)), sizes, without_thought, example or 0, kinds)


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
    found = stored(spec)
    sample, answer_kind, root = found[found.example]
    builder = RowBuilder(model, get_dialect(model.dialect), processor, SeenSizes(processor), with_completion, toolbox)
    turns = toolbox is not None and with_completion
    images = [open_image(root, image) for image in sample.images] if turns else []
    made = builder.row(sample, images, answer_kind)
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
        parts = {"answer": builder.dialect.render(sample.target, made["sizes"])}
        if sample.thought and model.grammar != "bare":
            parts["thought"] = builder.dialect.render_thought(sample.thought, made["sizes"])
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
    if with_completion and model.grammar != "bare" and found.without_thought:
        log.warning(
            "data %s: %d of %d samples have no thought, so the answer to learn is an empty one; write thoughts with "
            "`python -m data_prep cot`, or set model.grammar to bare",
            ", ".join(spec.path),
            found.without_thought,
            len(found),
        )
    builder = RowBuilder(model, get_dialect(model.dialect), processor, SeenSizes(processor), with_completion, toolbox)
    return Dataset.from_dict({"index": range(len(found))}).with_transform(LazyRows(found, builder))


@dataclass(frozen=True)
class LazyRows:
    """The transform behind the data set, whose only stored column is the index: trainer rows out.

    Rows hold objects, which a column of Arrow could not; rollouts of one prompt share one row.
    """

    samples: Stored
    builder: RowBuilder

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        known: dict[int, dict[str, Any]] = {}  # a batch of rollouts asks for every row several times
        for index in batch["index"]:
            if index not in known:
                sample, answer_kind, root = self.samples[index]
                images = [open_image(root, image) for image in sample.images]
                known[index] = self.builder.row(sample, images, answer_kind)
        rows = [known[index] for index in batch["index"]]
        return {"index": batch["index"], **{key: [row[key] for row in rows] for key in rows[0]}}


def collate_taught(processor: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows with `taught` and `images` as a batch, padded on the right, with the pictures of all turns."""
    episodes = [row[TAUGHT] for row in rows]
    ids = [[*own.prompt, *own.completion] for own in episodes]
    labels = [
        [IGNORED] * len(own.prompt)
        + [token if learned else IGNORED for token, learned in zip(own.completion, own.learned, strict=True)]
        for own in episodes
    ]
    pad = processor.tokenizer.pad_token_id
    longest = max(map(len, ids))
    pictures = [
        picture for row, own in zip(rows, episodes, strict=True) for picture in (*row["images"], *own.pictures)
    ]
    batch = dict(processor.image_processor(images=pictures, return_tensors="pt"))
    batch["input_ids"] = torch.tensor([own + [pad] * (longest - len(own)) for own in ids])
    batch["attention_mask"] = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own in ids])
    batch["labels"] = torch.tensor([own + [IGNORED] * (longest - len(own)) for own in labels])
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    batch["mm_token_type_ids"] = (batch["input_ids"] == image).long()
    return batch


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
            name = f"sample {row['sample'].id!r}"
            if self.longest is not None and length > self.longest:
                raise BrokenRow(name, f"needs {length} tokens, args.max_length is {self.longest}; raise it, or null")
            if not labels:
                raise BrokenRow(name, "no token of its answer is learned")
        return batch


def whole_rows(args: SFTConfig, processor: Any) -> WholeRows:
    """The collator of a stage that trains on right answers."""
    only = args.completion_only_loss is not False
    return WholeRows(processor, completion_only_loss=only, longest=args.max_length)


def _manifest_kind(folder: Path) -> str | None:
    """What a data set says it asks for."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    try:
        asks = json.loads(manifest.read_text(encoding="utf-8")).get("asks")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{manifest}: not a JSON object: {error}") from error
    return None if asks is None else str(asks)
