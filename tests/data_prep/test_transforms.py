"""Data sets made out of data sets: pseudo queries, query inference, negatives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep import SOURCES
from data_prep.curate.negatives import moved, words_of
from data_prep.curate.queries import queries
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.writer import run
from data_prep.screens.appearance import clear_color, color_shares
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.geometry import iou
from grounding.io import read_samples, write_samples
from grounding.sample import ImageRef, Sample, ToolTurn
from grounding.targets import Absent, Box, Boxes, Point, TextBox
from grounding.wording import read_places
from tests.data_prep.helpers_data import convert, parse, reasons, write_picture


def dataset(root: Path, rows, split="train") -> Path:
    samples = []
    for number, (image, instruction, target) in enumerate(rows):
        write_picture(root / "images" / image, 100, 50)
        ref = ImageRef(f"images/{image}", 100, 50)
        samples.append(Sample(f"s{number}", (ref,), instruction, target, "made", "CC0-1.0"))
    write_samples(root / f"{split}.jsonl", samples)
    return root


def box(x, y, label=None, side=0.1):
    return Box(x, y, x + side, y + side, label=label)


def test_pseudo_queries_by_hand():
    dogs = [box(0.1, 0.4, "dog"), box(0.45, 0.42, "dog"), box(0.8, 0.41, "dog", side=0.15)]
    found = dict(queries([*dogs, box(0.11, 0.1, "kite")]))
    assert found == {
        "the kite": box(0.11, 0.1, "kite"),
        "the dog on the left": dogs[0],
        "the second dog from the left": dogs[1],
        "the dog on the right": dogs[2],
        "the largest dog": dogs[2],  # 0.0225 against 0.01
    }


def test_pseudo_queries_relate_to_a_neighbor_only_when_one_fits():
    cups = [box(0.1, 0.1, "cup"), box(0.12, 0.8, "cup")]
    found = dict(queries([*cups, box(0.11, 0.4, "book")]))
    assert found["the cup above the book"] == cups[0] and found["the cup below the book"] == cups[1]
    assert "the cup to the left of the book" not in found
    third = dict(queries([*cups, box(0.5, 0.15, "cup"), box(0.11, 0.4, "book")]))
    assert "the cup above the book" not in third


def painted(*things, ground=(128, 128, 128)):
    """A picture of 200x200 with colored rectangles, each in its box."""
    image = Image.new("RGB", (200, 200), ground)
    for box, rgb in things:
        image.paste(rgb, tuple(round(200 * value) for value in box.xyxy))
    return image


def test_pseudo_queries_by_color_only_where_it_is_clear():
    red, blue, dark = box(0.1, 0.1, "cup", 0.2), box(0.5, 0.1, "cup", 0.2), box(0.1, 0.6, "cup", 0.2)
    image = painted((red, (220, 20, 30)), (blue, (20, 60, 200)), (dark, (90, 90, 95)))
    colors = {cup: color_shares(image, cup, [red, blue, dark]) for cup in (red, blue, dark)}
    found = dict(queries([red, blue, dark], colors))
    assert found["the red cup"] == red and found["the blue cup"] == blue
    assert not [query for query in found if "grey" in query]
    assert "the red cup" not in dict(queries([red, blue, dark]))  # no picture, no colors
    assert "the red cup" not in dict(queries([red, blue, dark], {red: colors[red]}))  # of the others nothing is known
    half = dict(colors)
    half[blue] = {"blue": 0.8, "red": 0.2}  # another one that somebody may call red
    assert "the red cup" not in dict(queries([red, blue, dark], half))


def test_a_color_is_that_of_the_things_middle():
    cup = Box(0.2, 0.2, 0.6, 0.6, label="cup")
    image = painted((cup, (20, 160, 40)), (Box(0.2, 0.2, 0.6, 0.26), (250, 250, 250)))  # a white rim
    assert clear_color(color_shares(image, cup)) == "green"
    spoon = Box(0.3, 0.3, 0.5, 0.5, label="spoon")
    image.paste((255, 255, 0), (60, 60, 100, 100))
    assert color_shares(image, cup, [cup, spoon]) == {}  # half of its middle is the spoon
    assert clear_color(color_shares(image, spoon, [cup, spoon])) == "yellow"
    assert color_shares(image, Box(0.2, 0.2, 0.25, 0.25)) == {}  # ten pixels, six in the middle
    assert clear_color(color_shares(painted((cup, (120, 70, 30))), cup)) == "brown"
    stripes = painted((cup, (200, 0, 0)), (Box(0.2, 0.2, 0.4, 0.6), (0, 0, 200)))
    assert clear_color(color_shares(stripes, cup)) is None


def test_colors_of_a_data_set_come_from_its_pictures(tmp_path):
    cup, person = Box(0.1, 0.1, 0.4, 0.9, label="cup"), Box(0.5, 0.1, 0.9, 0.9, label="person")
    dataset(tmp_path, [("a.png", "cup", cup), ("a.png", "person", person), ("b.png", "cup", cup)])
    painted((cup, (220, 20, 30)), (person, (20, 60, 200))).resize((100, 50)).save(tmp_path / "images/a.png")
    (tmp_path / "images/b.png").write_bytes(b"no picture")
    items, rejects = convert("pseudo_queries", tmp_path)
    assert sorted(i.sample.instruction for i in items) == ["the cup", "the person", "the red cup"]
    assert reasons(rejects) == ["bad image"]
    items, rejects = convert("pseudo_queries", tmp_path, "--no-colors")
    assert sorted(i.sample.instruction for i in items) == ["the cup", "the cup", "the person"] and not rejects


BOX = st.builds(lambda x, y, s, n: Box(x, y, x + s, y + s, label=n), st.floats(0, 0.8), st.floats(0, 0.8),
                st.floats(0.05, 0.2), st.sampled_from(["cat", "dog", "cup"]))  # fmt: skip


@given(st.lists(BOX, max_size=8))
def test_no_pseudo_query_fits_two_boxes(boxes):
    found = queries(boxes)
    meant = {}
    for query, target in found:
        assert target in boxes
        assert meant.setdefault(query, target) == target


def test_pseudo_queries_of_a_data_set(tmp_path):
    rows = [
        ("a.jpg", "every dog", Boxes((box(0.1, 0.4, "dog"), box(0.8, 0.4, "dog")))),
        ("a.jpg", "cat", box(0.5, 0.1, "cat")),
        ("b.jpg", "cat", box(0.5, 0.1, "cat")),
        ("b.jpg", "no label", box(0.2, 0.1)),
    ]
    items, rejects = convert("pseudo_queries", dataset(tmp_path, rows), "--per-image", "10")
    assert sorted(i.sample.instruction for i in items) == sorted(
        ["the dog on the left", "the dog on the right", "the dog to the left of the cat",
         "the dog to the right of the cat", "the cat", "the cat"]
    )  # fmt: skip
    assert not rejects and len({item.sample.id for item in items}) == 6


def test_query_inference_reverses(tmp_path):
    rows = [("a.jpg", "the cat", box(0.5, 0.1)), ("a.jpg", "Save", Point(0.25, 0.5)), ("a.jpg", "cow", Absent())]
    items, _ = convert("query_inference", dataset(tmp_path, rows))
    first, second = (item.sample for item in items)
    assert first.target == TextBox("the cat", (box(0.5, 0.1),)) and second.target == TextBox("Save", ())
    assert read_places(second.instruction) == (Point(0.25, 0.5),)
    assert "the cat" not in first.instruction


NOUNS = ["cat", "dog", "cow", "lamp", "kite", "bench", "apple", "train", "clock", "spoon"]


def many(root):
    return dataset(root, [(f"{n % 5}.jpg", f"the {NOUNS[n % 10]}", box(0.1 * (n % 8), 0.3)) for n in range(40)])


def test_absent_targets_share_no_word_with_their_image(tmp_path):
    items, rejects = convert("absent_targets", many(tmp_path))
    known = {}
    for sample in read_samples(tmp_path / "train.jsonl"):
        known.setdefault(sample.images[0].path, set()).update(words_of(sample.instruction))
    assert len(items) > 30 and all(item.sample.target == Absent() for item in items)
    assert not any(words_of(i.sample.instruction) & known[i.sample.images[0].path] for i in items)
    assert set(reasons(rejects)) <= {"no foreign phrase"}
    again, _ = convert("absent_targets", tmp_path)
    other, _ = convert("absent_targets", tmp_path, "--seed", "1")
    assert again == items and other != items
    assert len(convert("absent_targets", tmp_path, "--share", "0.25")[0]) < 25


def test_corrupted_pairs_answer_what_they_show(tmp_path):
    many(tmp_path)
    truth = {f"pair-{s.id}": s for s in read_samples(tmp_path / "train.jsonl")}
    items, _ = convert("corrupted_pairs", tmp_path)
    kinds = [item.sample.meta["corruption"] for item in items]
    assert set(kinds) == {"none", "phrase", "box"}
    for item, kind in zip(items, kinds, strict=True):
        original, sample = truth[item.sample.id], item.sample
        (shown,) = read_places(sample.instruction)
        overlap = float(iou(shown.xyxy, original.target.xyxy))
        assert (overlap > 0.95) == (kind != "box") and (overlap < 0.11) == (kind == "box")
        assert (original.instruction in sample.instruction) == (kind != "phrase")
        assert sample.target == TextBox(
            "yes" if kind == "none" else "no", () if kind == "phrase" else (original.target,)
        )


def test_a_box_that_fills_the_image_cannot_move():
    import random

    with pytest.raises(Rejected, match="no room"):
        moved(Box(0, 0, 1, 0.99), random.Random(0))


def test_broken_rows_of_a_data_set_are_rejected_and_images_carried(tmp_path):
    many(tmp_path / "in")
    with (tmp_path / "in" / "train.jsonl").open("a") as handle:
        handle.write('{"schema": 1}\nnot json\n')
    spec = SOURCES.get("query_inference")
    manifest = run(spec, parse("query_inference", tmp_path / "in", tmp_path / "out"))
    assert manifest["rows"] == {"train": 40} and manifest["rejects"] == {"broken row": 1, "not JSON": 1}
    assert manifest["images"] == 5 and (tmp_path / "out/images/0.jpg").exists()


@pytest.mark.parametrize(
    ("dialect", "place"),
    [("qwen3_vl", "[200, 400, 300, 500]"), ("qwen2_5_vl", "[40, 40, 60, 50]"), ("gemini", "[400, 200, 500, 300]")],
)
def test_a_model_is_asked_about_places_in_its_own_numbers(tmp_path, dialect, place):
    """Query inference and pairs, as a prompt for a processor that doubles each side of the 100x50 picture."""
    dataset(tmp_path, [("a.jpg", "the red mug", box(0.2, 0.4)), ("b.jpg", "a tall tree", box(0.2, 0.4))])
    questions, _ = convert("query_inference", tmp_path)
    pairs, _ = convert("corrupted_pairs", tmp_path)
    samples = [item.sample for item in questions + pairs if item.sample.meta.get("corruption") != "box"]
    assert samples
    for sample in samples:
        told = get_dialect(dialect).prompt(sample.instruction, "text_box", "bare", (ImageSize(100, 50, 200, 100),))
        assert place in told and "0.400" not in told


@pytest.mark.parametrize("name", ["absent_targets", "corrupted_pairs", "query_inference", "pseudo_queries"])
def test_what_led_to_the_old_answer_does_not_lead_to_the_new(tmp_path, name):
    root = dataset(
        tmp_path, [("a.png", "the red dog", box(0.1, 0.1, "dog")), ("b.png", "a cat", box(0.5, 0.5, "cat"))]
    )
    rows = [
        replace(sample, thought="I look for it.", turns=(ToolTurn("zoom", box(0.0, 0.0)),))
        for sample in read_samples(root / "train.jsonl")
    ]
    write_samples(root / "train.jsonl", rows)
    items, _ = convert(name, root)
    assert items and all(item.sample.thought is None and not item.sample.turns for item in items)
