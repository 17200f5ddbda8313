"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF as their authors publish them.

    ROOT/refcoco/refs(unc).p            pickle: a list of references, each with its sentences
    ROOT/refcoco/instances.json         COCO annotations: boxes xywh in pixels
    ROOT/images/mscoco/images/train2014/COCO_train2014_....jpg

The pickles are read by an unpickler that knows plain data only. The authors recommend the splits unc for RefCOCO
and RefCOCO+, umd for RefCOCOg. testA and testB go to test, told apart by `split` in the row's meta.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import Item, Reject, Split, source
from data_prep.pipeline.conversion import Rejected, box_from_xywh, convert_rows, in_pixels, instruction, numbered
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.pickles import load_plain
from data_prep.pipeline.readers import read_json_array
from grounding.errors import UsageError
from grounding.sample import Sample
from grounding.targets import Box

RECOMMENDED = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "refclef": "unc"}
SPLIT_FILES: dict[str, Split] = {"train": "train", "val": "val"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=sorted(RECOMMENDED), default="refcoco")
    parser.add_argument("--split-by", help="unc, umd, google or berkeley; default: what the authors recommend")
    parser.add_argument("--splits", nargs="+", help="only these, for instance: train val testA testB")
    parser.add_argument(
        "--image-folder", default="images/mscoco/images/train2014", help="folder of the images below --root"
    )


def _files(args: Namespace) -> tuple[Path, Path]:
    folder = args.root / args.dataset
    return folder / f"refs({args.split_by or RECOMMENDED[args.dataset]}).p", folder / "instances.json"


def read_instances(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    """Images by id (file_name, width, height) and boxes (xywh, pixels) by annotation id.

    What is there twice under one id with different content is a `Rejected`.
    """
    images: dict[int, Any] = {}
    for where, row in read_json_array(path, "images"):
        if isinstance(row, Rejected):
            raise UsageError(f"{where}: {row.detail}")
        _enter(images, "image", row["id"], {key: row.get(key) for key in ("file_name", "width", "height")})
    boxes: dict[int, Any] = {}
    for where, row in read_json_array(path, "annotations"):
        if isinstance(row, Rejected):
            raise UsageError(f"{where}: {row.detail}")
        _enter(boxes, "annotation", row["id"], row["bbox"])
    return images, boxes


def _enter(table: dict[int, Any], what: str, key: int, value: Any) -> None:
    if table.setdefault(key, value) != value:
        table[key] = Rejected("duplicate id", f"{what} {key} is there twice, with different content")


def entry(table: dict[int, Any], key: int) -> Any:
    """The entry of `read_instances` with an id; raises KeyError, or Rejected "duplicate id"."""
    if isinstance(table[key], Rejected):
        raise table[key]
    return table[key]


@source(
    "refcoco",
    reads="refs(SPLIT).p and instances.json of refer (RefCOCO/+/g, RefCLEF)",
    license="Apache-2.0 (annotations); images: COCO terms of use",
    home="https://github.com/lichengunc/refer",
    add_arguments=add_arguments,
    inputs=_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    refs_path, instances_path = _files(args)
    references = load_plain(refs_path)
    if not isinstance(references, list):
        raise UsageError(f"{refs_path} is not a list of references")
    images, boxes = read_instances(instances_path)
    folder = ImageFolder.of(args, args.image_folder)
    splits = set(args.splits or ())

    def one(where: str, ref: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
        split = ref["split"]
        if splits and split not in splits:
            return
        record = entry(images, ref["image_id"])
        image, file = folder(record["file_name"], record["width"], record["height"])
        size = image.width, image.height
        box: Box = box_from_xywh(in_pixels(entry(boxes, ref["ann_id"]), *size), *size)

        def said(where: str, sentence: dict[str, Any]) -> Iterator[Item]:
            sample = Sample(
                id=f"{args.dataset}-{ref['ref_id']}-{sentence['sent_id']}",
                images=(image,),
                instruction=instruction(sentence["sent"]),
                target=box,
                source="refcoco",
                license="Apache-2.0",
                meta={"dataset": args.dataset, "split": split, "ref_id": ref["ref_id"], "image_id": ref["image_id"]},
            )
            yield Item(sample, {image.path: file}, SPLIT_FILES.get(split, "test"))

        yield from convert_rows(numbered(where, ref["sentences"]), said)

    rows = ((f"{refs_path.name}:{number}", ref) for number, ref in enumerate(references, 1))
    return convert_rows(rows, one)
