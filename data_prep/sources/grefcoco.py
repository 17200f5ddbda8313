"""gRefCOCO: expressions for no, one or several objects.

ROOT/grefcoco/grefs(unc).json    references with a list of annotation ids; [-1] where nothing is meant
ROOT/grefcoco/instances.json     COCO annotations: boxes xywh in pixels
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import Item, Reject, source
from data_prep.pipeline.conversion import box_from_xywh, convert_rows, in_pixels, instruction, numbered
from data_prep.pipeline.images import ImageFolder
from data_prep.pipeline.readers import read_json_array
from data_prep.sources.refcoco import SPLIT_FILES, entry, read_instances
from grounding.sample import Sample
from grounding.targets import Absent, Boxes, Target


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--splits", nargs="+", help="only these, for instance: train val testA testB")
    parser.add_argument(
        "--image-folder", default="images/mscoco/images/train2014", help="folder of the images below --root"
    )


def _files(args: Namespace) -> tuple[Path, Path]:
    return args.root / "grefcoco" / "grefs(unc).json", args.root / "grefcoco" / "instances.json"


@source(
    "grefcoco",
    reads="grefs(unc).json and instances.json of gRefCOCO",
    license="CC-BY-NC-SA-4.0 (annotations); images: COCO terms of use",
    home="https://github.com/henghuiding/gRefCOCO",
    add_arguments=add_arguments,
    inputs=_files,
)
def convert(args: Namespace) -> Iterator[Item | Sample | Reject]:
    refs_path, instances_path = _files(args)
    images, boxes = read_instances(instances_path)
    folder = ImageFolder.of(args, args.image_folder)
    splits = set(args.splits or ())

    def one(where: str, ref: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
        split = ref["split"]
        if splits and split not in splits:
            return
        record = entry(images, ref["image_id"])
        image, file = folder(record["file_name"], record["width"], record["height"])
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        size = image.width, image.height
        found = tuple(box_from_xywh(in_pixels(entry(boxes, i), *size), *size) for i in ids if i != -1)
        target: Target = Absent() if not found else found[0] if len(found) == 1 else Boxes(found)

        def said(where: str, sentence: dict[str, Any]) -> Iterator[Item]:
            sample = Sample(
                id=f"grefcoco-{ref['ref_id']}-{sentence['sent_id']}",
                images=(image,),
                instruction=instruction(sentence["sent"]),
                target=target,
                source="grefcoco",
                license="CC-BY-NC-SA-4.0",
                meta={"split": split, "ref_id": ref["ref_id"], "image_id": ref["image_id"]},
            )
            yield Item(sample, {image.path: file}, SPLIT_FILES.get(split, "test"))

        yield from convert_rows(numbered(where, ref["sentences"]), said)

    return convert_rows(read_json_array(refs_path), one)
