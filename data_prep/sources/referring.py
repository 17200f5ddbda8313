"""Expressions that refer to something in a photograph: RefCOCO and its relatives, ReasonSeg, Flickr30k Entities."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from data_prep import SPLITS, Item, Reject, Split
from data_prep.pipeline.conversion import (
    Rejected,
    box_from_xyxy,
    convert_rows,
    instruction,
    number,
    numbered,
    pixel_box,
    target_of,
)
from data_prep.pipeline.images import inside
from data_prep.pipeline.pickles import load_plain
from data_prep.pipeline.presets import Conversion, row_source
from data_prep.pipeline.readers import Row, read_json_array, require
from data_prep.sources import CARDS
from grounding.errors import UsageError
from grounding.sample import Sample

RECOMMENDED = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "refclef": "unc"}
_SPLITS: dict[str, Split] = {"train": "train", "val": "val"}  # testA and testB are test


def read_instances(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    """Images by id (file_name, width, height) and boxes (xywh, pixels) by annotation id, of a file in COCO's format.

    What is there twice under one id with different content is a `Rejected`.
    """

    def table(part: str, what: str, value: Callable[[dict[str, Any]], Any]) -> dict[int, Any]:
        entries: dict[int, Any] = {}
        for where, row in read_json_array(path, part):
            if isinstance(row, Rejected):
                raise UsageError(f"{where}: {row.detail}")
            try:
                if entries.setdefault(row["id"], value(row)) != value(row):
                    detail = f"{what} {row['id']} is there twice, with different content"
                    entries[row["id"]] = Rejected("duplicate id", detail)
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{where}: not an {what} of COCO's format: {error!r}") from error
        return entries

    images = table("images", "image", lambda row: {key: row.get(key) for key in ("file_name", "width", "height")})
    return images, table("annotations", "annotation", lambda row: row["bbox"])


def _entry(table: dict[int, Any], key: int) -> Any:
    """The entry of `read_instances` with an id; raises KeyError, or Rejected "duplicate id"."""
    if isinstance(table[key], Rejected):
        raise table[key]
    return table[key]


def _refer_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--splits", action="several", help="only these, for instance: train val testA testB")
    parser.add_argument(
        "--image-folder", default="images/mscoco/images/train2014", help="folder of the images below --root"
    )


def _refer_files(args: Namespace) -> tuple[Path, Path]:
    """The references and the COCO file they point into."""
    folder = args.root / vars(args).get("dataset", "grefcoco")
    if folder.name == "grefcoco":
        return folder / "grefs(unc).json", folder / "instances.json"
    return folder / f"refs({args.split_by or RECOMMENDED[args.dataset]}).p", folder / "instances.json"


def _refer_tables(run: Conversion) -> tuple[dict[int, Any], dict[int, Any], set[str]]:
    return *read_instances(_refer_files(run.args)[1]), set(run.args.splits or ())


def _pickled_references(args: Namespace) -> Iterator[Row]:
    path, _ = _refer_files(args)
    references = load_plain(path)
    if not isinstance(references, list):
        raise UsageError(f"{path} is not a list of references")
    return ((f"{path.name}:{number}", ref) for number, ref in enumerate(references, 1))


def _references(run: Conversion, where: str, ref: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
    """{"ref_id", "ann_id": id | [id, ...], "image_id", "split", "sentences": [{"sent_id", "sent"}, ...]}

    Of gRefCOCO, an `ann_id` is a list, and [-1] says that nothing is meant.
    """
    images, boxes, splits = run.prepared
    split = ref["split"]
    if splits and split not in splits:
        return
    record = _entry(images, ref["image_id"])
    picture = run.folder(record["file_name"], record["width"], record["height"])
    several = run.name == "grefcoco"
    ids = ref["ann_id"] if several and isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    found = [pixel_box(_entry(boxes, i), picture[0], xywh=True) for i in ids if not (several and i == -1)]
    told = {} if several else {"dataset": run.args.dataset}

    def said(where: str, sentence: dict[str, Any]) -> Iterator[Item]:
        id = f"{told.get('dataset', run.name)}-{ref['ref_id']}-{sentence['sent_id']}"
        asked = instruction(sentence["sent"])
        meta = {**told, "split": split, "ref_id": ref["ref_id"], "image_id": ref["image_id"]}
        yield run.item(id, [picture], asked, target_of(found), split=_SPLITS.get(split, "test"), meta=meta)

    yield from convert_rows(numbered(where, ref["sentences"]), said)


# ROOT/refcoco/refs(unc).p            pickle: a list of references, each with its sentences
# ROOT/refcoco/instances.json         COCO annotations: boxes xywh in pixels
# ROOT/images/mscoco/images/train2014/COCO_train2014_....jpg
# The pickles are read by an unpickler that knows plain data only. The authors recommend the splits unc for RefCOCO
# and RefCOCO+, umd for RefCOCOg. testA and testB go to test, told apart by `split` in the row's meta.
row_source(
    **CARDS["refcoco"],
    arguments=_refer_arguments,
    flags={
        "--dataset": {"choices": sorted(RECOMMENDED), "default": "refcoco"},
        "--split-by": {"help": "unc, umd, google or berkeley; default: what the authors recommend"},
    },
    inputs=_refer_files,
    rows=_pickled_references,
    prepare=_refer_tables,
)(_references)

# ROOT/grefcoco/grefs(unc).json    references to no, one or several objects
# ROOT/grefcoco/instances.json     COCO annotations: boxes xywh in pixels
row_source(
    **CARDS["grefcoco"],
    arguments=_refer_arguments,
    inputs=_refer_files,
    rows=lambda args: read_json_array(_refer_files(args)[0]),
    prepare=_refer_tables,
)(_references)

_ANNOTATION_ID = re.compile(r"(COCO_train2014_\d{12})_\d+")


@row_source(**CARDS["refcoco_json"])
def refcoco_json(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item | Sample | Reject]:
    """The JSON conversions of RefCOCO/+/g that circulate, told apart by the names of their fields.

    MiniGPT-4  {"img_id": "COCO_train2014_000000580957_4", "sents": ..., "bbox": xywh, "height", "width"}
    Visual-CoT {"img_path": "COCO_train2014_....jpg", "expression": ..., "bbox": xyxy, "height", "width", "split"}
    Qwen-VL    {"image": "data/.../COCO_train2014_....jpg", "sent": ..., "bbox": xyxy, "height", "width"}
    Hub        {"file_name": "COCO_train2014_000000580957_0.jpg", "answer": [...], "bbox": xywh} (lmms-lab; Parquet)
    """
    name, sentences, xywh = _conversion(row)
    if isinstance(row.get("image"), dict):
        name = name.rpartition(".")[0]
        picture = run.inside_row(name, row["image"]["bytes"], row.get("width"), row.get("height"))
    else:
        picture = run.folder(name, row.get("width"), row.get("height"))
    box = pixel_box(row["bbox"], picture[0], xywh=xywh)
    meta = {"split": row["split"]} if isinstance(row.get("split"), str) else {}

    def said(where: str, sentence: Any) -> Iterator[Item]:
        yield run.item(where, [picture], sentence, box, meta=meta)

    yield from convert_rows(numbered(where, sentences) if len(sentences) > 1 else [(where, sentences[0])], said)


def _conversion(row: dict[str, Any]) -> tuple[str, list[str], bool]:
    """File name, sentences, and whether the box is xywh."""
    if "img_id" in row:
        found = _ANNOTATION_ID.fullmatch(row["img_id"])
        if not found:
            raise Rejected("wrong format", f"img_id {row['img_id']!r}")
        return f"{found[1]}.jpg", [row["sents"]], True
    if "img_path" in row:
        return row["img_path"], [row["expression"]], False
    if "sent" in row:
        return PurePosixPath(row["image"]).name, [row["sent"]], False
    if "answer" in row and "file_name" in row:
        return _ANNOTATION_ID.sub(r"\1", row["file_name"]), list(row["answer"]), True
    raise Rejected("wrong format", f"none of the known conversions has the fields {', '.join(sorted(row))}")


VLM_R1_QUESTION = re.compile(
    r"^(?:<image>\s*)?Please provide the bounding box coordinates? of the region .*?describes:\s*", re.I
)
VLM_R1_ANSWER = re.compile(r"</?answer>|```(?:json)?")


@row_source(**CARDS["vlm_r1"])
def vlm_r1(run: Conversion, where: str, row: dict[str, Any]) -> Iterator[Item]:
    """RefCOCO/+/g for RL, LISA-Grounding: boxes xyxy in pixels.

    jsonl  {"id", "image": "train2014/COCO_....jpg", "conversations": [{"from": "human", "value": "<image>Please
            provide the bounding box coordinate of the region this sentence describes: ..."},
            {"from": "gpt", "value": [...]}]}
    json   [{"image", "problem", "normal_caption"?, "solution": [x1, y1, x2, y2]}, ...]
    """
    if "solution" in row:
        text, answer = row.get("normal_caption") or row["problem"], row["solution"]
    else:
        question, said = row["conversations"][:2]
        text, answer = question["value"], said["value"]
    if isinstance(answer, str):
        try:
            answer = json.loads(VLM_R1_ANSWER.sub("", answer))
        except ValueError:
            raise Rejected("wrong format", f"solution {answer[:80]!r}") from None
    picture = run.folder(row["image"], row.get("width"), row.get("height"))
    asked = instruction(VLM_R1_QUESTION.sub("", text).removesuffix("."))
    meta = {"dataset": str(row["dataset"])} if "dataset" in row else {}
    yield run.item(where, [picture], asked, pixel_box(answer, picture[0]), meta=meta)


def _reasonseg_files(args: Namespace) -> list[Path]:
    files = [path for split in args.splits for path in sorted((args.root / split).glob("*.json"))]
    if not files:
        raise UsageError(f"no .json in {', '.join(str(args.root / split) for split in args.splits)}")
    return files


@row_source(
    **CARDS["reasonseg"],
    flags={"--splits": {"nargs": "+", "choices": SPLITS, "default": ["train", "val"]}},
    inputs=_reasonseg_files,
    rows=lambda args: ((f"{path.parent.name}/{path.name}", path) for path in _reasonseg_files(args)),
)
def reasonseg(run: Conversion, where: str, path: Path) -> Iterator[Item | Sample | Reject]:
    """ReasonSeg (LISA): implicit questions; here the box around the target's outline.

    ROOT/train/NAME.jpg and NAME.json (labelme): {"text": [...], "is_sentence": bool,
        "shapes": [{"label": "target" | "ignore" | "flag", "points": [[x, y], ...]}, ...]}
    """
    split: Any = path.parent.name
    row = json.loads(require(path).read_text(encoding="utf-8", errors="surrogateescape"))
    picture = run.folder(f"{split}/{path.stem}.jpg", row.get("imageWidth"), row.get("imageHeight"))
    outlines = [shape["points"] for shape in row["shapes"] if shape["label"] == "target"]
    points = [(number(x), number(y)) for outline in outlines for x, y in outline]
    if not points:
        raise Rejected("empty box", "no outline is labeled target")
    xs, ys = zip(*points, strict=True)
    box = box_from_xyxy((min(xs), min(ys), max(xs), max(ys)), picture[0].width, picture[0].height)
    meta = {"split": split, "sentence": bool(row.get("is_sentence", False))}

    def said(where: str, text: Any) -> Iterator[Item]:
        yield run.item(where, [picture], text, box, split=split, meta=meta)

    yield from convert_rows(numbered(f"reasonseg-{split}-{path.stem}", row["text"]), said)


_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]+)\]")


def _flickr_lists(args: Namespace) -> list[Path]:
    return [args.root / f"{split}.txt" for split in args.splits]


def _flickr_rows(args: Namespace) -> Iterator[Row]:
    for path in _flickr_lists(args):
        for line in require(path).read_text().split():
            yield f"{path.name}:{line}", (path.stem, line)


@row_source(
    **CARDS["flickr30k_entities"],
    flags={
        "--image-folder": {"default": "flickr30k-images", "help": "folder of the images below --root"},
        "--splits": {"nargs": "+", "choices": SPLITS, "default": list(SPLITS)},
    },
    inputs=_flickr_lists,
    rows=_flickr_rows,
)
def flickr30k_entities(run: Conversion, where: str, row: tuple[Split, str]) -> Iterator[Item | Sample | Reject]:
    """The phrases of image captions and their boxes.

    ROOT/Annotations/36979.xml       boxes in pixels, each with the ids of its phrase chains
    ROOT/Sentences/36979.txt         five captions: [/EN#1/people A man] in [/EN#2/clothing a hat] ...
    ROOT/flickr30k-images/36979.jpg
    ROOT/train.txt, val.txt, test.txt
    """
    split, key = row
    width, height, chains = _flickr_boxes(inside(run.args.root, f"Annotations/{key}.xml"))
    picture = run.folder(f"{key}.jpg", width, height)

    def said(where: str, match: re.Match[str]) -> Iterator[Item]:
        chain, kind, phrase = match.groups()
        found = [box_from_xyxy(box, width, height) for box in chains.get(chain, ())]
        if found:  # else a scene, or something that cannot be boxed
            caption = _PHRASE.sub(r"\3", match.string)
            meta = {"split": split, "type": kind, "chain": chain, "caption": caption}
            yield run.item(where, [picture], phrase, target_of(found), split=split, meta=meta)

    for line, sentence in enumerate(_text(inside(run.args.root, f"Sentences/{key}.txt")).splitlines(), 1):
        yield from convert_rows(numbered(f"flickr30k-{key}-{line}", _PHRASE.finditer(sentence)), said)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise Rejected("missing file", str(path)) from None


def _flickr_boxes(path: Path) -> tuple[int, int, dict[str, list[list[str]]]]:
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
