"""Every conversion read back: targets drawn at random, written in the source's own format, come out the same."""

from __future__ import annotations

import csv
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep import SOURCES
from grounding.dialects import get_dialect
from grounding.sample import regions_of
from grounding.wording import arrange
from tests.data_prep.helpers_data import convert, picture, write_json, write_jsonl, write_picture

SIZES = [(400, 200), (64, 300)]
Row = tuple[str, tuple[int, ...]]
"""What is asked for, and thousandths: x1, y1, x2, y2 of a box; x, y of a point; start, end of a span."""

WORDS = st.lists(st.text("abcxyzéÜß漢7'-", min_size=1, max_size=6), min_size=1, max_size=4).map(" ".join)


def ends(low: int = 0) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, 990), st.integers(5, 1000)).map(lambda p: (p[0], min(1000, p[0] + p[1])))


BOXES = st.tuples(ends(), ends()).map(lambda pair: (pair[0][0], pair[1][0], pair[0][1], pair[1][1]))
POINTS = st.tuples(st.integers(0, 1000), st.integers(0, 1000))


def pixels(numbers, size):
    """Thousandths as pixels."""
    return [value * size[i % 2] / 1000 for i, value in enumerate(numbers)]


def xywh(numbers):
    x1, y1, x2, y2 = numbers
    return [x1, y1, x2 - x1, y2 - y1]


def fractions(numbers):
    return [value / 1000 for value in numbers]


def table(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def instances(root, folder, rows, size):
    images = [{"id": 7, "file_name": "a.jpg", "width": size[0], "height": size[1]}]
    boxes = [{"id": n, "image_id": 7, "bbox": xywh(pixels(box, size))} for n, (_, box) in enumerate(rows)]
    write_json(root / folder / "instances.json", {"images": images, "annotations": boxes, "categories": []})
    write_picture(root / "images/mscoco/images/train2014/a.jpg", *size)


def refcoco(root, rows, size):
    instances(root, "refcoco", rows, size)
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": 7, "split": "train", "sentences": [{"sent_id": n, "sent": text}]}
        for n, (text, _) in enumerate(rows)
    ]
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def grefcoco(root, rows, size):
    instances(root, "grefcoco", rows, size)
    refs = [
        {"ref_id": n, "image_id": 7, "split": "train", "ann_id": [n], "no_target": False,
         "sentences": [{"sent_id": n, "sent": text}]}
        for n, (text, _) in enumerate(rows)
    ]  # fmt: skip
    write_json(root / "grefcoco/grefs(unc).json", refs)


def minigpt(root, rows, size):
    write_picture(root / "train2014/COCO_train2014_000000000007.jpg", *size)
    named = {"img_id": "COCO_train2014_000000000007_4", "width": size[0], "height": size[1]}
    write_json(root / "r.json", [{**named, "sents": text, "bbox": xywh(pixels(box, size))} for text, box in rows])


def shikra(root, rows, size):
    write_picture(root / "train2014/a.jpg", *size)
    named = {"img_path": "a.jpg", "width": size[0], "height": size[1]}
    write_jsonl(root / "r.json", [])
    write_jsonl(root / "r.jsonl", [{**named, "expression": text, "bbox": pixels(box, size)} for text, box in rows])


def viscot(root, rows, size):
    write_picture(root / "CUB/b.png", *size)
    base = {
        "answer": "yes",
        "image": "b.png",
        "width": size[0],
        "height": size[1],
        "dataset": "cub",
        "split": "train",
    }
    lines = [{**base, "question": text, "bboxs": [pixels(box, size)]} for text, box in rows]
    write_jsonl(root / "metadata/cub.jsonl", lines)


def flickr(root, rows, size):
    write_picture(root / "flickr30k-images/1.jpg", *size)
    objects = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>"
        for n, (x1, y1, x2, y2) in enumerate((pixels(box, size) for _, box in rows), 1)
    )
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    caption = " and ".join(f"[/EN#{n}/other {text}]" for n, (text, _) in enumerate(rows, 1))
    for name, text in (
        ("Annotations/1.xml", f"<annotation>{shape}{objects}</annotation>"),
        ("Sentences/1.txt", caption),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    (root / "train.txt").write_text("1\n")


def reasonseg(root, rows, size):
    for n, (text, box) in enumerate(rows):
        write_picture(root / f"train/{n}.jpg", *size)
        x1, y1, x2, y2 = pixels(box, size)
        outline = {"label": "target", "points": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]}
        write_json(root / f"train/{n}.json", {"text": [text], "is_sentence": True, "shapes": [outline]})


def detection(file: str, folder: str, name: str) -> Callable[..., None]:
    def write(root, rows, size):
        write_picture(root / folder / "1.jpg", *size)
        content = {
            "images": [{"id": 1, "file_name": name, "width": size[0], "height": size[1]}],
            "categories": [{"id": n, "name": text} for n, (text, _) in enumerate(rows)],
            "annotations": [
                {"image_id": 1, "category_id": n, "bbox": xywh(pixels(box, size)), "iscrowd": 0}
                for n, (_, box) in enumerate(rows)
            ],
        }
        write_json(root / file, content)

    return write


def vlm_r1(root, rows, size):
    write_picture(root / "a.jpg", *size)
    ask = "<image>Please provide the bounding box coordinate of the region this sentence describes: "
    turns = [
        [{"from": "human", "value": f"{ask}{text}."}, {"from": "gpt", "value": pixels(box, size)}]
        for text, box in rows
    ]
    write_jsonl(root / "r.jsonl", [{"id": n, "image": "a.jpg", "conversations": t} for n, t in enumerate(turns)])


def refchartqa(root, rows, size):
    image = {"bytes": picture(*size), "path": None}
    made = []
    for n, (text, box) in enumerate(rows):
        region = dict(zip("xywh", map(float, xywh(pixels(box, size))), strict=True))
        made.append({"id": str(n), "image": image, "query": text, "label": ["2019"], "type": "human",
                     "grounding_bboxes": [region]})  # fmt: skip
    table(root / "data/train-0.parquet", made)


def pixmo(root, rows, size):
    write_picture(root / "images/ab.jpg", *size)
    points = [(text, {"x": x / 10, "y": y / 10}) for text, (x, y) in rows]  # percent
    write_jsonl(root / "p.jsonl", [{"image_sha256": "ab", "label": t, "points": [p], "count": 1} for t, p in points])


def hub(root, rows, size):
    image = {"bytes": picture(*size), "path": None}
    cells = [{"img": image, "say": text, "o": {"b": [box[i] / 10 for i in (1, 0, 3, 2)]}} for text, box in rows]
    table(root / "d.parquet", cells)
    (root / "m.yaml").write_text(
        "name: mine\nfiles: ['*.parquet']\nimage: img\ninstruction: say\n"
        "target: {kind: box, column: o.b, format: yxyx, unit: percent}\n"
    )


def se_gui(root, rows, size):
    write_picture(root / "images/s.png", *size)
    turns = [{"from": "gpt", "value": "x"}]
    lines = [
        {"images": ["s.png"], "bbox": pixels(box, size),
         "conversations": [{"from": "human", "value": f"<image>\n{text}"}, *turns]}
        for text, box in rows
    ]  # fmt: skip
    write_json(root / "s.json", lines)


def gui_r1(root, rows, size):
    image = {"bytes": picture(*size), "path": "a.png"}
    base = {"image": image, "history": "None", "task_type": "low", "gt_action": "click", "gt_input_text": "no"}
    table(root / "train.parquet", [{**base, "instruction": t, "gt_bbox": fractions(box)} for t, box in rows])


def showui(root, rows, size):
    write_picture(root / "images/m.png", *size)
    elements = [{"instruction": text, "bbox": fractions(box), "data_type": "icon"} for text, box in rows]
    write_json(root / "metadata/hf_train.json", [{"img_url": "m.png", "img_size": list(size), "element": elements}])


def uground(root, rows, size):
    turns = [
        turn
        for text, numbers in rows
        for turn in ({"from": "human", "value": f"Description: {text}"}, {"from": "gpt", "value": str(numbers)})
    ]
    row = {"image": picture(*size), "width": size[0], "height": size[1], "conversations": json.dumps(turns)}
    table(root / "shard_0000.parquet", [row])


def os_atlas(root, rows, size):
    write_picture(root / "images/a.png", *size)
    elements = [{"instruction": text, "bbox": fractions(box)} for text, box in rows]
    write_json(root / "web.json", [{"img_filename": "a.png", "elements": elements}])


def clicks(said: Callable[..., str], file: str, dump: Callable[..., Path], image: str) -> Callable[..., None]:
    def write(root, rows, size):
        write_picture(root / "images/a.png", *size)
        turns = [
            turn
            for text, point in rows
            for turn in (
                {"from": "human", "value": text},
                {"from": "gpt", "recipient": "os", "value": said(point, size)},
            )
        ]
        dump(root / file, [{"image": image, "conversations": turns}])

    return write


def jedi_call(point, size):
    click = {"name": "computer_use", "arguments": {"action": "left_click", "coordinate": pixels(point, size)}}
    return f"<tool_call>\n{json.dumps(click)}\n</tool_call>"


def pyautogui(point, size):
    return f"pyautogui.click(x={point[0] / 1000}, y={point[1] / 1000})"


def mgrounding(root, rows, size):
    names = [f"MGrounding-630k/{n}.jpg" for n in range(2)]
    for name in names:
        write_picture(root / name, *size)
    turns = []
    for n, (text, (x1, y1, x2, y2)) in enumerate(rows):
        images = "<image>\n<image>\n" if n == 0 else ""
        box = f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"
        turns += [{"from": "human", "value": images + text}, {"from": "gpt", "value": f"In Image-1: {box}"}]
    write_json(root / "MGrounding-630k.json", [{"images": [f"./{name}" for name in names], "conversations": turns}])


def sharegpt(root, rows, size):
    write_picture(root / "a.jpg", *size)
    lines = [
        {"images": ["a.jpg"], "messages": [{"role": "user", "content": f"<image>{text}"},
                                           {"role": "assistant", "content": json.dumps({"bbox_2d": box})}]}
        for text, box in rows
    ]  # fmt: skip
    write_json(root / "d.json", lines)


def frames(root, video):
    for n in range(1, 4):
        write_picture(root / f"frames/{video}/{n:05d}.jpg", 32, 24)


def charades(root, rows, size):
    frames(root, "AO8RW")
    lines = [f"AO8RW {a / 10} {b / 10}##{text}\n" for text, (a, b) in rows]
    (root / "charades_sta_train.txt").write_text("".join(lines), encoding="utf-8")
    (root / "charades_sta_test.txt").write_text("")
    (root / "lengths.csv").write_text("id,subject,length\nAO8RW,x,100.0\n")


def activitynet(root, rows, size):
    frames(root, "v_a")
    spans = [[a / 10, b / 10] for _, (a, b) in rows]
    write_json(
        root / "train.json", {"v_a": {"duration": 100.0, "timestamps": spans, "sentences": [t for t, _ in rows]}}
    )


def qvhighlights(root, rows, size):
    frames(root, "v_0.0_100.0")
    base = {"vid": "v_0.0_100.0", "duration": 100}
    lines = [
        {**base, "qid": n, "query": text, "relevant_windows": [[a / 10, b / 10]]}
        for n, (text, (a, b)) in enumerate(rows)
    ]
    write_jsonl(root / "highlight_train_release.jsonl", lines)


def nextgqa(root, rows, size):
    frames(root, "401")
    options = dict.fromkeys(("a0", "a1", "a2", "a3", "a4"), "yes")
    with (root / "test.csv").open("w", newline="", encoding="utf-8") as file:
        asked = [
            {"video_id": "401", "question": text, "answer": "yes", "qid": str(n), "type": "CW", **options}
            for n, (text, _) in enumerate(rows)
        ]
        writer = csv.DictWriter(file, list(asked[0]))
        writer.writeheader()
        writer.writerows(asked)
    location = {str(n): [[a / 10, b / 10]] for n, (_, (a, b)) in enumerate(rows)}
    write_json(root / "gsub_test.json", {"401": {"duration": 100.0, "location": location}})


def time_r1(root, rows, size):
    frames(root, "abc")
    base = {"video": "./d/abc.mp4", "duration": 100.0, "video_start": None, "video_end": None, "qid": "q"}
    lines = [{**base, "timestamp": [a / 10, b / 10], "sentence": text} for text, (a, b) in rows]
    write_json(root / "t.json", lines)


CASES: dict[str, tuple[str, Callable[..., None], st.SearchStrategy, tuple[str, ...]]] = {
    "refcoco": ("refcoco", refcoco, BOXES, ()),
    "refcoco_json, MiniGPT-4": ("refcoco_json", minigpt, BOXES, ("--annotations", "r.json")),
    "refcoco_json, Visual-CoT": ("refcoco_json", shikra, BOXES, ("--annotations", "r.jsonl")),
    "grefcoco": ("grefcoco", grefcoco, BOXES, ()),
    "viscot": ("viscot", viscot, BOXES, ("--annotations", "metadata/*.jsonl", "--folders", "cub=CUB")),
    "flickr30k_entities": ("flickr30k_entities", flickr, BOXES, ("--splits", "train")),
    "reasonseg": ("reasonseg", reasonseg, BOXES, ("--splits", "train")),
    "coco": ("coco", detection("annotations/instances_train2017.json", "train2017", "1.jpg"), BOXES, ()),
    "objects365": ("objects365", detection("zhiyuan_objv2_train.json", "p1", "images/v1/p1/1.jpg"), BOXES, ()),
    "vlm_r1": ("vlm_r1", vlm_r1, BOXES, ()),
    "refchartqa": ("refchartqa", refchartqa, BOXES, ()),
    "pixmo_points": ("pixmo_points", pixmo, POINTS, ("--annotations", "p.jsonl")),
    "hub": ("hub", hub, BOXES, ("--mapping", "{root}/m.yaml")),
    "se_gui": ("se_gui", se_gui, BOXES, ("--annotations", "s.json")),
    "gui_r1": ("gui_r1", gui_r1, BOXES | POINTS, ()),
    "showui": ("showui", showui, BOXES, ()),
    "uground": ("uground", uground, BOXES | POINTS, ()),
    "os_atlas": ("os_atlas", os_atlas, BOXES, ()),
    "aguvis": ("aguvis", clicks(pyautogui, "g.json", write_json, "a.png"), POINTS, ()),
    "jedi": ("jedi", clicks(jedi_call, "icons.jsonl", write_jsonl, "images/a.png"), POINTS, ()),
    "mgrounding": ("mgrounding", mgrounding, BOXES, ()),
    "sharegpt": ("sharegpt", sharegpt, BOXES, ("--dialect", "qwen3_vl")),
    "charades_sta": ("charades_sta", charades, ends(), ("--lengths", "lengths.csv")),
    "activitynet": ("activitynet", activitynet, ends(), ()),
    "qvhighlights": ("qvhighlights", qvhighlights, ends(), ()),
    "nextgqa": ("nextgqa", nextgqa, ends(), ()),
    "time_r1": ("time_r1", time_r1, ends(), ("--annotations", "t.json")),
}  # fmt: skip
MADE_HERE = {
    "screens",
    "screen_groups",
    "screen_pairs",
    "charts",
    "spatial",
    "miniwob",
    "web",
}  # they draw their screens: no files of another format to read
MADE_OF_DATA = {
    "absent_targets",
    "benchmark",
    "corrupted_pairs",
    "cot",
    "curate",
    "pseudo_queries",
    "query_inference",
}


def test_no_source_is_left_out():
    assert set(SOURCES) - MADE_HERE - MADE_OF_DATA == {name for name, *_ in CASES.values()}


def coordinates(target):
    """Thousandths of a target with one region; tenths of a second of a span."""
    (region,) = regions_of(target)
    if hasattr(region, "start"):
        return [region.start * 10, region.end * 10]
    return [1000 * value for value in (region.xyxy if hasattr(region, "xyxy") else (region.x, region.y))]


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), size=st.sampled_from(SIZES))
def test_what_was_written_is_read(case, data, size):
    name, write, numbers, flags = CASES[case]
    rows = data.draw(st.lists(st.tuples(WORDS, numbers), min_size=1, max_size=4, unique_by=lambda row: row[0]))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, rows, size)
        items, rejects = convert(name, root, *(flag.format(root=root) for flag in flags))
    assert not rejects
    found = {item.sample.instruction: coordinates(item.sample.target) for item in items}
    assert found.keys() == {text for text, _ in rows}
    for text, wanted in rows:
        assert found[text] == pytest.approx(wanted, abs=0.01), text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), count=st.integers(2, 3), size=st.sampled_from(SIZES))
def test_conversations_keep_their_images_places_and_thoughts(data, count, size):
    """Images stand where the text had them, and thought and answer are the same again in the dialect's words."""
    pieces = [data.draw(WORDS) for _ in range(count + 1)]
    (asked, box, place), which = data.draw(st.tuples(WORDS, BOXES, POINTS)), data.draw(st.integers(1, count))
    text = "".join(f"{words} <image> " for words in pieces[:-1]) + f"{pieces[-1]} {asked}: Image-{which}"
    thought = f"In Image-{which}, {asked} {list(place)} is near image {which} {list(box)}."
    answer = f"<think>{thought}</think>\n" + json.dumps({"bbox_2d": list(box)})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [f"{n}.png" for n in range(count)]
        for name in names:
            write_picture(root / name, *size)
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        write_json(root / "d.json", [{"images": names, "messages": turns}])
        ((item,), rejects) = convert("sharegpt", root, "--dialect", "qwen3_vl")
    sample, dialect = item.sample, get_dialect("qwen3_vl")
    assert not rejects and sample.target.image == which - 1
    assert coordinates(sample.target) == pytest.approx(box)
    parts = arrange(sample.question, count)
    assert parts.count(None) == count
    assert "<image>".join(" ".join(part.split()) for part in parts if part) == "<image>".join(
        " ".join(part.split()) for part in text.split("<image>")
    )
    told = dialect.render_thought(sample.thought, sample.sizes)
    prefix = f"image {which} " if which > 1 else ""
    assert told == f"In Image-{which}, {asked} {prefix}{list(place)} is near image {which} {list(box)}."
