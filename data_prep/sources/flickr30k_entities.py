"""Flickr30k Entities: the phrases of image captions and their boxes.

ROOT/Annotations/36979.xml       boxes in pixels, each with the ids of its phrase chains
ROOT/Sentences/36979.txt         five captions: [/EN#1/people A man] in [/EN#2/clothing a hat] ...
ROOT/flickr30k-images/36979.jpg
ROOT/train.txt, val.txt, test.txt
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from data_prep import SPLITS, Item, Reject, source
from data_prep.pipeline.conversion import Rejected, box_from_xyxy, convert_rows, instruction, numbered
from data_prep.pipeline.images import ImageFolder, inside
from data_prep.pipeline.readers import require
from grounding.sample import Sample
from grounding.targets import Box, Boxes, Target

_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]+)\]")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--image-folder", default="flickr30k-images", help="folder of the images below --root")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))


def _lists(args: Namespace) -> list[Path]:
    return [args.root / f"{split}.txt" for split in args.splits]


@source(
    "flickr30k_entities",
    reads="Annotations/*.xml, Sentences/*.txt and the split lists of Flickr30k Entities",
    license="research and education only (annotations and images)",
    home="https://github.com/BryanPlummer/flickr30k_entities",
    add_arguments=add_arguments,
    inputs=_lists,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    folder = ImageFolder.of(args, args.image_folder)

    def rows() -> Iterator[tuple[str, Any]]:
        for path, split in zip(_lists(args), args.splits, strict=True):
            for line in require(path).read_text().split():
                yield f"{path.name}:{line}", (split, line)

    def one(where: str, row: tuple[Any, str]) -> Iterator[Item | Sample | Reject]:
        split, key = row
        width, height, chains = _boxes(inside(args.root, f"Annotations/{key}.xml"))
        image, file = folder(f"{key}.jpg", width, height)

        def said(where: str, match: re.Match[str]) -> Iterator[Item]:
            chain, kind, phrase = match.groups()
            found = tuple(box_from_xyxy(box, width, height) for box in chains.get(chain, ()))
            if not found:  # a scene, or something that cannot be boxed
                return
            target: Target | Box = found[0] if len(found) == 1 else Boxes(found)
            sample = Sample(
                id=where,
                images=(image,),
                instruction=instruction(phrase),
                target=target,
                source="flickr30k_entities",
                license="research and education only",
                meta={"split": split, "type": kind, "chain": chain, "caption": _PHRASE.sub(r"\3", match.string)},
            )
            yield Item(sample, {image.path: file}, split)

        for line, sentence in enumerate(_text(inside(args.root, f"Sentences/{key}.txt")).splitlines(), 1):
            yield from convert_rows(numbered(f"flickr30k-{key}-{line}", _PHRASE.finditer(sentence)), said)

    return convert_rows(rows(), one)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise Rejected("missing file", str(path)) from None


def _boxes(path: Path) -> tuple[int, int, dict[str, list[list[str]]]]:
    """Width, height and chain id -> boxes (xyxy, pixels)."""
    text = _text(path)
    if "<!" in text:  # a document type: entities could expand without end
        raise Rejected("wrong format", f"{path.name} declares a document type")
    try:
        tree = ElementTree.fromstring(text)  # noqa: S314  nothing can expand without a document type
    except ElementTree.ParseError as error:
        raise Rejected("wrong format", f"{path.name}: {error}") from None
    chains: dict[str, list[list[str]]] = {}
    for thing in tree.iterfind("object"):
        frame = thing.find("bndbox")
        if frame is not None:
            box = [frame.findtext(corner, "") for corner in ("xmin", "ymin", "xmax", "ymax")]
            for name in thing.iterfind("name"):
                chains.setdefault(name.text or "", []).append(box)
    return int(tree.findtext("size/width", "0")), int(tree.findtext("size/height", "0")), chains
