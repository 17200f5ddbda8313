"""Sources that read rows of annotations, as declarations: a preset says what its files are and what a row says.

    @row_source("my_set", reads="rows.jsonl of My Set", license="MIT", annotations="rows.jsonl", images="images")
    def my_set(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
        yield run.item(where, [run.folder(row["file"])], row["text"], box_in(1, row["bbox"]))

The rest is here: `--annotations` and `--image-folder`, reading .json, .jsonl, .csv and .parquet files, the sample
itself, and a `Reject` for each row that is wrong (`convert_rows` says what counts as that).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

from data_prep import Item, Reject, Split, source
from data_prep.pipeline import spaces
from data_prep.pipeline.conversion import Rejected, convert_rows, instruction
from data_prep.pipeline.images import ImageFolder, from_bytes
from data_prep.pipeline.readers import Row, add_files, annotation_files, read_annotations, split_argument
from data_prep.pipeline.spaces import Spaces
from grounding.sample import ImageRef, Sample
from grounding.targets import Target

Picture = tuple[ImageRef, Path | bytes]
"""An image of a sample, and its content: a file, or the bytes of one."""


@dataclass(frozen=True)
class Conversion:
    """One run of a source.

    Attributes:
        name: of the source, noted in every sample.
        license: noted in every sample.
        args: the command line.
        folder: (name, width, height) -> the picture of that name below `--image-folder`; see `ImageFolder`.
        spaces: is to be told the numbers of every region, where the source lets the user choose their unit.
        prepared: what the source's `prepare` returned.
    """

    name: str
    license: str
    args: Namespace
    folder: ImageFolder
    spaces: Spaces | None = None
    prepared: Any = None

    def item(
        self,
        id: str,
        pictures: Sequence[Picture],
        asked: Any,
        target: Target,
        *,
        split: Split | None = None,
        thought: str | None = None,
        meta: Mapping[str, str | int | float | bool | None] | None = None,
    ) -> Item:
        """The sample that asks `asked` about the pictures; `split` is that of `--as-split`, or train, by default.

        Raises:
            Rejected: `asked` is no instruction.
        """
        images = tuple(image for image, _ in pictures)
        sample = Sample(id, images, instruction(asked), target, self.name, self.license, thought, meta or {})
        files = {image.path: content for image, content in pictures}
        return Item(sample, files, split or vars(self.args).get("as_split", "train"))

    def inside_row(self, where: str, value: Any, width: Any = None, height: Any = None) -> Picture:
        """The picture that a column holds, as bytes or {"bytes": ..., "path": ...}; named after the row.

        Raises:
            Rejected: "missing image" when there are no bytes; as `from_bytes`.
        """
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise Rejected("missing image", "the row holds no image")
        return from_bytes(where.replace(".parquet:", "-").replace("/", "_"), data, width, height)


RowConverter = Callable[[Conversion, str, Any], Iterable[Item | Sample | Reject]]


def row_source(
    name: str,
    *,
    reads: str,
    license: str,
    noted: str = "",
    home: str = "",
    annotations: str | None = None,
    images: str = ".",
    as_split: bool = False,
    arguments: Callable[[ArgumentParser], None] | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: Callable[[Namespace], Iterable[Path]] = annotation_files,
    rows: Callable[[Namespace], Iterable[Row]] = read_annotations,
    space: Callable[[Namespace], str] | None = None,
    prepare: Callable[[Conversion], Any] | None = None,
) -> Callable[[RowConverter], RowConverter]:
    """Decorator that registers a function from (run, where, row) to the row's items as a source.

    Args:
        name, reads, home, inputs: see `Source`.
        license: see `Source`; `noted` is what every sample says of it, where that is less.
        annotations: default of `--annotations`; None where the source has no such flag.
        images: default of `--image-folder`.
        as_split: whether there is `--as-split`, for files that do not say which split they are.
        arguments, flags: further flags, added by a function, or given as flag -> arguments of `add_argument`.
        rows: the rows that the arguments name, with where they stand.
        space: what the user chose as unit of the numbers, for `Spaces`; adds `--trust-space`.
        prepare: called once a run, before the first row; what it returns is `Conversion.prepared`.
    """

    def add_arguments(parser: ArgumentParser) -> None:
        if annotations is not None:
            add_files(parser, annotations, images)
        if as_split:
            split_argument(parser)
        if arguments is not None:
            arguments(parser)
        for flag, options in (flags or {}).items():
            parser.add_argument(flag, **options)
        if space is not None:
            spaces.add_arguments(parser)

    def add(convert_row: RowConverter) -> RowConverter:
        @wraps(convert_row)
        def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
            folder = ImageFolder.of(args, vars(args).get("image_folder", images))
            told = Spaces(space(args), args) if space is not None else None
            run = Conversion(name, noted or license, args, folder, told)
            if prepare is not None:
                run = replace(run, prepared=prepare(run))
            made = convert_rows(rows(args), partial(convert_row, run))
            return told.watch(made) if told is not None else made

        source(name, reads=reads, license=license, home=home, add_arguments=add_arguments, inputs=inputs)(convert)
        return convert_row

    return add
