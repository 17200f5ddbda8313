"""Data sources: each turns files of one public format into samples.

A source is one function, in a module of its own or of its kind (`data_prep/sources/`):

    @source("charades_sta", reads="lines 'VIDEO START END##sentence'", license="...", home="https://...",
            add_arguments=add_arguments)
    def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
        ...

and is run by `python -m data_prep charades_sta --root DIR --out DIR`. `convert` is a plain generator: it yields
what it could read and a `Reject` for what it could not, in an order that depends on its arguments only. It writes
nothing. `data_prep.pipeline.writer` takes care of the files: shuffling nothing, resuming, counting, the manifest.

Arguments every source gets: `args.root` (Path, or None when the source needs no input), `args.out` (Path),
`args.limit` (stop after so many samples, or None), `args.seed` (int), `args.start` (how many items of an
interrupted run are already on disk: a source that can skip cheaply declares `seeks=True` and begins at its item
number `args.start`; for all others the writer drops the first `args.start` items itself).

Images come in three ways, and an `Item` says which:

1. **Existing files**: `Item(sample, {"images/cat.jpg": Path("/data/coco/cat.jpg")})`. The file is hard-linked to
   `OUT/images/cat.jpg` (copied where that is impossible, or with `--images copy`; left alone with
   `--images none`). It is never re-encoded. `data_prep.pipeline.images.ImageFolder` makes such references and
   checks the path, the header, the size.
2. **New images**: `Item(sample, {"images/0007.png": png_bytes})`. The bytes are written as they are.
3. **Images of the data set being read** (a transform): a plain `Sample`, or an `Item` of kind 1.

The same name always stands for the same bytes: a file already in place is not written again.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import unwrap
from pathlib import Path
from typing import Any, Literal

from grounding.errors import UsageError
from grounding.registry import Registry
from grounding.sample import Sample

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Item:
    """A sample with what the writer must know to put it on disk.

    Attributes:
        sample: its images' paths are relative to the data set's folder.
        files: for each image path that is not in that folder yet, an existing file or the bytes of a new one.
        split: which file of the data set the row goes to.
    """

    sample: Sample
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    split: Split = "train"


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was not converted.

    Attributes:
        where: what locates it in the source, for instance ``"train.json:17"`` or an id.
        reason: a short fixed phrase, counted in the manifest: ``"missing image"``, ``"box outside"``.
        detail: the particulars, for a person reading rejects.jsonl.
    """

    where: str
    reason: str
    detail: str = ""


Converter = Callable[[Namespace], Iterable[Item | Sample | Reject]]


@dataclass(frozen=True, slots=True)
class Source:
    """A registered source.

    Attributes:
        name: as on the command line.
        convert: see the module's docstring.
        reads: one line, what files it wants.
        license: SPDX identifier or the source's words; put into every sample by the source itself.
        home: where to get the data.
        add_arguments: adds the source's own flags to the parser.
        inputs: the files whose content decides the result, hashed into the manifest as the source's version.
        needs_root: whether `--root` is required.
        seeks: `convert` starts at item `args.start` by itself.
        max_rejects: default of `--max-rejects`, the share of rejected rows at which the run stops.
        finish: adds to the folder of the finished data set, before it is put in place.
    """

    name: str
    convert: Converter
    reads: str
    license: str
    home: str = ""
    add_arguments: Callable[[ArgumentParser], None] | None = None
    inputs: Callable[[Namespace], Iterable[Path]] | None = None
    needs_root: bool = True
    seeks: bool = False
    max_rejects: float = 0.1
    finish: Callable[[Path], None] | None = None


SOURCES: Registry[Source] = Registry("data source", "data_prep")


def source(name: str, **about: Any) -> Callable[[Converter], Converter]:
    """Decorator that registers a `convert` function; the function itself is returned.

    Args:
        about: the further attributes of `Source`; `reads` and `license` are needed.
    """

    def add(convert: Converter) -> Converter:
        SOURCES.register(name)(Source(name, named_by_the_user(convert), **about))
        return convert

    return add


def find_source(name: str) -> Source:
    """The source of a name, or that of a function in anybody's module: ``my_package.my_module.convert``.

    Raises:
        UsageError: there is none.
    """
    found: object = SOURCES.get(name)
    if isinstance(found, Source):
        return found
    for spec in map(SOURCES.get, SOURCES):
        if unwrap(spec.convert) is found:
            return spec
    raise UsageError(f"{name} is no data source: its function lacks @data_prep.source(...)")


def named_by_the_user(convert: Converter) -> Converter:
    """`convert`, with what --source and --license say in every row."""

    @wraps(convert)
    def converted(args: Namespace) -> Iterator[Item | Sample | Reject]:
        told = {key: vars(args)[key] for key in ("source", "license") if vars(args).get(key)}
        return _with(convert(args), told) if told else iter(convert(args))

    return converted


def _with(items: Iterable[Item | Sample | Reject], told: dict[str, str]) -> Iterator[Item | Sample | Reject]:
    try:
        for item in items:
            if isinstance(item, Item):
                yield replace(item, sample=replace(item.sample, **told))  # type: ignore[arg-type]
            else:
                yield replace(item, **told) if isinstance(item, Sample) else item  # type: ignore[arg-type]
    finally:
        if isinstance(items, Generator):
            items.close()
