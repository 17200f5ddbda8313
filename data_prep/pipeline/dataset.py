"""Reading a data set of ours, for the sources that make a new one out of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep import SPLITS, Converter, Item, Reject, Split, source
from data_prep.pipeline.conversion import Rejected, convert_rows
from data_prep.pipeline.images import inside
from data_prep.pipeline.readers import read_rows
from grounding.errors import BrokenRow, UsageError
from grounding.sample import Sample, from_row
from grounding.targets import Target


def dataset_source(
    name: str,
    *,
    license: str = "that of the data set",
    add_arguments: Callable[[ArgumentParser], None] = lambda parser: None,
    more_inputs: Callable[[Namespace], Iterable[Path | None]] = lambda args: (),
    **about: Any,
) -> Callable[[Converter], Converter]:
    """`data_prep.source` for those that read a data set: with `--splits`, and its files among the inputs.

    Args:
        more_inputs: further files whose content decides the result; None for one that was not given.
        about: the further attributes of `Source`.
    """

    def arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--splits", action="several", choices=SPLITS, default=list(SPLITS), help="only these")
        add_arguments(parser)

    def inputs(args: Namespace) -> list[Path]:
        return [*dataset_files(args), *filter(None, more_inputs(args))]

    return source(name, license=license, add_arguments=arguments, inputs=inputs, **about)


def dataset_files(args: Namespace) -> list[Path]:
    """The files of the splits that are there, train first.

    Raises:
        UsageError: there is none.
    """
    found = [
        path
        for split in SPLITS
        if split in args.splits
        for suffix in ("jsonl", "parquet")
        if (path := args.root / f"{split}.{suffix}").is_file()
    ]
    if not found:
        raise UsageError(f"--root {args.root}: no train, val or test file; give the folder of a converted data set")
    return found


def read_dataset(args: Namespace) -> Iterator[tuple[Split, Sample | Reject]]:
    """Every row with its split; one that cannot be read comes as a `Reject`."""
    for path in dataset_files(args):
        split: Split = next(split for split in SPLITS if path.stem == split)
        for where, row in read_rows(path):
            if isinstance(row, Rejected):
                yield split, Reject(where, row.reason, row.detail)
                continue
            try:
                yield split, from_row(row, where)
            except BrokenRow as error:
                yield split, Reject(where, "broken row", error.reason)


def samples_of(args: Namespace) -> Iterator[Sample]:
    """The readable samples, for a first pass over the data."""
    for _, sample in read_dataset(args):
        if isinstance(sample, Sample):
            yield sample


def carry(sample: Sample, root: Path, split: Split) -> Item:
    """The item of a sample whose images lie in the data set in `root`."""
    return Item(sample, {image.path: inside(root, image.path) for image in sample.images}, split)


def derived(sample: Sample, prefix: str, asked: str, target: Target, *, source: str, **meta: str) -> Sample:
    """A sample of another task about the same images: `prefix` begins its id, `meta` joins that of `sample`.

    The thought and the calls that lead to the old answer stay behind.
    """
    return replace(
        sample,
        id=f"{prefix}-{sample.id}",
        instruction=asked,
        target=target,
        source=source,
        thought=None,
        turns=(),
        meta={**sample.meta, **meta},
    )


def transform(args: Namespace, change: Callable[[Sample], Iterable[Sample]]) -> Iterator[Item | Sample | Reject]:
    """Every sample through `change`, which gives any number of samples or raises `Rejected`."""
    for split, sample in read_dataset(args):
        if isinstance(sample, Reject):
            yield sample
            continue

        def changed(where: str, row: Sample, split: Split = split) -> Iterator[Item]:
            for made in change(row):
                yield carry(made, args.root, split)

        yield from convert_rows([(sample.id, sample)], changed)
