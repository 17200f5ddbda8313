"""Curation: every rule has a row that breaks it, and the rows worth keeping stay."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from benchmarks import BENCHMARKS
from benchmarks.harness.items import BenchmarkItem, ItemImage, Truth
from data_prep import SOURCES
from data_prep.curate.hashes import distances, groups
from data_prep.curate.leakage import PictureFinder
from data_prep.curate.rules import CurationLimits, cell, check_geometry, check_instruction
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.writer import run
from grounding.errors import UsageError
from grounding.io import read_samples, write_samples
from grounding.journal import read_journal
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Point, Span
from tests.data_prep.helpers_data import convert, parse, reasons, write_json

BOX = Box(0.25, 0.25, 0.5, 0.5)


def scene(seed: int, size=(160, 120), quality: int | None = None) -> bytes:
    """A picture of random rectangles; `quality` re-encodes the same picture as JPEG."""
    dice = np.random.default_rng(seed)
    image = Image.new("RGB", (160, 120), tuple(int(v) for v in dice.integers(0, 255, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (int(v) for v in dice.integers(5, 90, 4))
        pen.rectangle((x, y, x + w, y + h), fill=tuple(int(v) for v in dice.integers(0, 255, 3)))
    data = io.BytesIO()
    image = image.resize(size)
    image.save(data, "JPEG" if quality else "PNG", **({"quality": quality} if quality else {}))
    return data.getvalue()


def a_sample(number, image="a.png", instruction=None, target=BOX, size=(160, 120), **meta):
    text = instruction if instruction is not None else f"the blue thing number {number}"
    return Sample(f"s{number}", (ImageRef(f"images/{image}", *size),), text, target, "made", "CC0-1.0", meta=meta)


def dataset(root: Path, images: dict[str, bytes], **splits) -> Path:
    (root / "images").mkdir(parents=True)
    for name, data in images.items():
        (root / "images" / name).write_bytes(data)
    for split, samples in splits.items():
        write_samples(root / f"{split}.jsonl", samples)
    return root


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("word " * 81, "instruction too long"),
        ("the caf\ufffd sign", "instruction has broken characters"),
        ("the <b>bold</b> one", "instruction has markup"),
        ("see https://x.org", "instruction has markup"),
        ("click {{ title }}", "instruction has markup"),
        ("the box at [10, 20, 30, 40]", "instruction has coordinates"),
        ("the dot (0.5, 0.25)", "instruction has coordinates"),
        ("12345", "instruction without letters"),
        ("$$$ --- a", "instruction without letters"),
        ("The button.", "vague instruction"),
        ("icon", "vague instruction"),
        ("man man man man man man", "instruction repeats itself"),
    ],
)
def test_bad_instructions(text, reason):
    with pytest.raises(Rejected) as error:
        check_instruction(text, CurationLimits())
    assert error.value.reason == reason


@pytest.mark.parametrize("text", ["dog", "Save as...", "保存按钮", "the man in the 2nd row", "3rd cat (left)", "OK"])
def test_good_instructions(text):
    check_instruction(text, CurationLimits())


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Box(0.5, 0.5, 0.51, 0.6), "box too small"),  # 1.6 pixels of 160
        (Box(0, 0, 1, 0.99), "box covers the image"),
        (Span(0, 9.9), "span covers the video"),
        (BOX, None),
        (Point(0, 0), None),
        (Absent(), None),
        (Span(1, 5), None),
    ],
)
def test_geometry(target, reason):
    sample = a_sample(0, target=target, duration=10.0)
    if reason is None:
        check_geometry(sample, CurationLimits())
        return
    with pytest.raises(Rejected) as error:
        check_geometry(sample, CurationLimits())
    assert error.value.reason == reason


def test_cells_by_hand():
    assert cell(a_sample(0, target=Point(0.1, 0.9))) == "small 20"
    assert cell(a_sample(0, target=BOX)) == "large 11"  # side 0.25, center 0.375
    assert cell(a_sample(0, target=Absent())) is None


@given(st.integers(2, 40), st.integers(0, 12), st.integers(0, 2**32))
def test_groups_are_those_of_brute_force(count, distance, seed):
    dice = np.random.default_rng(seed)
    centers = dice.integers(0, 256, (max(1, count // 4), 32), dtype=np.uint8)
    hashes = centers[dice.integers(0, len(centers), count)].copy()
    for row in hashes:
        for bit in dice.integers(0, 256, dice.integers(0, distance + 2)):
            row[bit // 8] ^= np.uint8(1 << (bit % 8))
    leader = list(range(count))
    changed = True
    while changed:
        changed = False
        for a in range(count):
            close = distances(hashes, hashes[a]) <= distance
            lowest = min(leader[b] for b in range(count) if close[b])
            for b in range(count):
                if close[b] and leader[b] != lowest:
                    leader[b], changed = lowest, True
    assert groups(hashes, distance).tolist() == leader


def test_copies_and_near_copies(tmp_path):
    images = {"a.png": scene(1), "again.jpg": scene(1, quality=80), "b.png": scene(2), "c.png": scene(3),
              "bad.png": scene(4)[:200]}  # fmt: skip
    rows = [
        a_sample(0, "a.png", "the blue door"),
        a_sample(1, "a.png", "The blue door!"),
        a_sample(2, "again.jpg", "the blue door"),
        a_sample(3, "again.jpg", "the red door"),
        a_sample(4, "b.png", "the blue door"),
        a_sample(5, "bad.png", "the blue door"),
    ]
    root = dataset(tmp_path / "in", images, train=rows, val=[a_sample(6, "a.png", "the roof"), a_sample(7, "c.png")])
    items, rejects = convert("curate", root)
    assert [item.sample.id for item in items] == ["s0", "s3", "s4", "s7"]
    assert [(r.where, r.reason) for r in rejects] == [
        ("s1", "duplicate row"), ("s2", "duplicate row"), ("s5", "bad image"), ("s6", "image in two splits")
    ]  # fmt: skip
    items, rejects = convert("curate", root, "--one-image")
    assert [item.sample.id for item in items] == ["s0", "s4", "s7"]
    assert "near-duplicate image" in reasons(rejects)
    assert [item.sample.id for item in convert("curate", root, "--no-images")[0]] == [
        "s0",
        "s2",
        "s3",
        "s4",
        "s5",
        "s6",
        "s7",
    ]


def test_leakage_by_picture_and_by_words(tmp_path):
    test = [a_sample(0, "x.png", "open the settings of the printer now"), a_sample(1, "y.png", "close")]
    held = dataset(tmp_path / "held", {"x.png": scene(1), "y.png": scene(9)}, test=test)
    images = {"a.jpg": scene(1, (320, 240), 70), "b.png": scene(2), "c.png": scene(3)}
    rows = [
        a_sample(0, "a.jpg", "the blue door", size=(320, 240)),
        a_sample(1, "b.png", "Open the settings, of the printer: now!"),
        a_sample(2, "b.png", "close"),
        a_sample(3, "c.png", "open the printer"),
    ]
    root = dataset(tmp_path / "in", images, train=rows)
    items, rejects = convert("curate", root, "--against", str(held))
    assert [item.sample.id for item in items] == ["s2", "s3"]
    assert reasons(rejects) == ["benchmark image", "benchmark instruction"]
    assert "x.png" in rejects[0].detail
    (held / "images" / "y.png").unlink()
    with pytest.raises(UsageError, match="1 of 2 held-out pictures are not on disk"):
        convert("curate", root, "--against", str(held))
    assert reasons(convert("curate", root, "--against", str(held), "--words-only")[1]) == reasons(rejects)


def test_leakage_against_a_benchmark_adapter(tmp_path):
    official = tmp_path / "screenspot_v2"
    (official / "screenspotv2_image").mkdir(parents=True)
    (official / "screenspotv2_image" / "web_1.png").write_bytes(scene(1))
    row = {
        "img_filename": "web_1.png",
        "bbox": [40, 30, 40, 30],
        "instruction": "x",
        "data_type": "text",
        "data_source": "shop",
    }
    for part in ("web", "mobile", "desktop"):
        write_json(official / f"screenspot_{part}_v2.json", [row])
    root = dataset(tmp_path / "in", {"a.jpg": scene(1, quality=75), "b.png": scene(2)},
                   train=[a_sample(0, "a.jpg"), a_sample(1, "b.png")])  # fmt: skip
    items, rejects = convert("curate", root, "--benchmark", f"screenspot_v2={official}")
    assert [item.sample.id for item in items] == ["s1"] and reasons(rejects) == ["benchmark image"]


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_can_be_held_out(tmp_path, monkeypatch, name):
    """Whatever an adapter reads: a copy of its picture and a row of its words are found, from its items alone."""
    official = tmp_path / "official"
    (official / "deep").mkdir(parents=True)
    (official / "deep" / "shown.png").write_bytes(scene(1))
    (official / "any.json").write_text("[]")
    asked = "open the settings of the printer now"
    item = BenchmarkItem("1", (ItemImage("shown.png", 160, 120),), asked, Truth(), "box")
    monkeypatch.setattr(BENCHMARKS.get(name), "read", lambda self, root, split: [item])
    rows = [a_sample(0, "a.jpg"), a_sample(1, "b.png"), a_sample(2, "b.png", f"{asked}!")]
    root = dataset(tmp_path / "in", {"a.jpg": scene(1, quality=75), "b.png": scene(2)}, train=rows)
    items, rejects = convert("curate", root, "--benchmark", f"{name}={official}")
    assert [item.sample.id for item in items] == ["s1"]
    assert reasons(rejects) == ["benchmark image", "benchmark instruction"]


def test_files_of_one_name_are_told_apart_by_their_folders_or_all_taken(tmp_path):
    for name in ("web/1/0.png", "web/2/0.png", "app/2/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    find = PictureFinder(tmp_path)
    assert find("web/1/0.png") == ["web/1/0.png"]
    assert find("1/0.png") == ["web/1/0.png"]
    assert find("2/0.png") == ["app/2/0.png", "web/2/0.png"]
    assert len(find("elsewhere/0.png")) == 3
    assert find("none.png") == ["none.png"]


def test_a_task_about_places_does_not_leak_coordinates(tmp_path):
    said = "Which instruction does [0.100, 0.200, 0.300, 0.400] answer?"
    rows = [a_sample(0, instruction=said), a_sample(1, instruction=said, task="query_inference")]
    items, rejects = convert("curate", dataset(tmp_path / "in", {"a.png": scene(1)}, train=rows))
    assert [item.sample.id for item in items] == ["s1"] and reasons(rejects) == ["instruction has coordinates"]


def test_difficulty_attention_and_balance(tmp_path):
    rows = [a_sample(n, "a.png", f"the blue door number {n}") for n in range(4)]
    root = dataset(tmp_path / "in", {"a.png": scene(1)}, train=rows)
    marks = {"s0": [True, True], "s1": [True, False], "s2": [False, False]}
    lines = [
        {"id": name, "rollout": k, "correct": mark} for name, all_ in marks.items() for k, mark in enumerate(all_)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items, rejects = convert("curate", root, "--results", str(tmp_path / "r.jsonl"))
    assert [item.sample.id for item in items] == ["s1"] and items[0].sample.meta["pass_rate"] == 0.5
    assert reasons(rejects) == ["too easy", "too hard", "no rollouts"]

    scores = [
        {"id": "s0", "peak": 0.5, "inside": 0.3, "overall": 0.1},
        {"id": "s1", "peak": 0.5, "inside": 0.1, "overall": 0.2},
        {"id": "s2", "peak": 0.1, "inside": 0.3, "overall": 0.1},
        {"id": "s3", "score": 0.9},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scores))
    items, rejects = convert("curate", root, "--attention", str(tmp_path / "a.jsonl"))
    assert [item.sample.id for item in items] == ["s0", "s3"] and set(reasons(rejects)) == {"attention elsewhere"}


def test_balance_thins_out_the_crowded_cell(tmp_path):
    crowd = [a_sample(n, target=BOX) for n in range(300)]
    rest = [a_sample(300 + n, target=Box(0.8, 0.8, 0.9, 0.9)) for n in range(20)]
    rest += [a_sample(400 + n, target=Box(0.0, 0.8, 0.1, 0.9)) for n in range(20)]
    root = dataset(tmp_path / "in", {"a.png": scene(1)}, train=crowd + rest)
    items, rejects = convert("curate", root, "--balance", "2")
    kept = sum(item.sample.target == BOX for item in items)
    assert 25 <= kept <= 55 and len(items) - kept == 40  # two times the median cell's 20 is 40
    assert set(reasons(rejects)) == {"size and position over-represented"}
    assert convert("curate", root, "--balance", "2")[0] == items


def test_curated_data_set_on_disk_and_cached_hashes(tmp_path):
    root = dataset(tmp_path / "in", {"a.png": scene(1)}, train=[a_sample(0), a_sample(1, instruction="icon")])
    manifest = run(SOURCES.get("curate"), parse("curate", root, tmp_path / "out"))
    assert manifest["rows"] == {"train": 1} and manifest["rejects"] == {"vague instruction": 1}
    assert [s.id for s in read_samples(tmp_path / "out/train.jsonl")] == ["s0"]
    cache = tmp_path / "out.hashes.jsonl"
    assert len(list(read_journal(cache))) == 1
    with cache.open("a") as handle:
        handle.write('{"path": "images/cut')
    run(SOURCES.get("curate"), parse("curate", root, tmp_path / "out2"))
    convert("curate", root)
    run(SOURCES.get("curate"), parse("curate", root, tmp_path / "out", "--overwrite", "--seed", "5"))
