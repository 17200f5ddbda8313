"""Questions about several screens, and about where things lie: one right answer, in the image that is named."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fovea_data import Screens
from benchmarks.harness.io.data_sets import item_of
from benchmarks.harness.items import Prediction
from data_prep.__main__ import main
from data_prep.screens import pairs, spatial
from data_prep.screens.scenes import HELD_OUT, Element, Scene
from grounding.answer import Status
from grounding.dialects import get_dialect
from grounding.io import read_samples
from grounding.sample import from_row, to_row
from grounding.wording import read_places
from models.profile import Profile
from models.prompting import question
from rewards import REWARDS

RED = Element("star", "red", (10, 10, 30, 30))
BLUE = Element("circle", "blue", (50, 10, 80, 40))
PINK = Element("cross", "pink", (10, 60, 30, 80))


def screen(*elements):
    return Scene(96, "light", elements)


def test_what_is_right_is_worked_out_from_the_screens():
    two = screen(RED, BLUE)
    assert pairs.right("same", [screen(replace(RED, box=(0, 0, 9, 9))), two]) == [(1, RED)]
    assert pairs.right("kind", [screen(replace(BLUE, color="green")), two]) == [(1, BLUE)]
    assert pairs.right("missing", [screen(RED, BLUE, PINK), two]) == [(0, PINK)]
    green = replace(BLUE, color="green")
    assert pairs.right("changed", [screen(RED, green), two]) == [(1, BLUE)]
    assert pairs.right("odd", [two, screen(RED, BLUE, PINK), two]) == [(1, PINK)]
    assert pairs.right("missing", [two, two]) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_target_is_what_its_pixels_say(split):
    tasks, held_out, images = set(), 0, set()
    for index in range(120):
        sample, drawn = pairs.example(index, seed=2, split=split)
        task, target = sample.meta["task"], sample.target
        tasks.add(task)
        images.add((task, target.image))
        held_out += bool(sample.meta["held_out"])
        assert len(drawn) == len(sample.images) == 2 + (task == "odd") and from_row(to_row(sample)) == sample
        assert f"of the {('first', 'second', 'third')[target.image]} image" in sample.thought
        if task in ("missing", "changed", "odd"):  # the screens differ where the target is, and nowhere else
            own = np.asarray(drawn[target.image], dtype=int)
            other = np.asarray(drawn[target.image - 1], dtype=int)
            rows, columns = np.nonzero(np.abs(own - other).sum(axis=2))
            x1, y1, x2, y2 = np.array(target.xyxy) * 96
            assert columns.min() >= x1 - 1 and columns.max() <= x2 and rows.min() >= y1 - 1 and rows.max() <= y2
    assert tasks == set(pairs.TASKS) and {("odd", 0), ("odd", 1), ("odd", 2)} <= images
    assert (held_out > 0) == (split == "test")


def test_splits_share_no_sample():
    train = {np.asarray(pairs.example(i, seed=0, split="train")[1][1]).tobytes() for i in range(40)}
    test = {np.asarray(pairs.example(i, seed=0, split="test")[1][1]).tobytes() for i in range(40)}
    assert not train & test


def test_the_right_box_in_the_wrong_image_is_wrong():
    """For the rewards as for the score, in the words of a model."""
    sample = next(s for s in (pairs.example(i, seed=0, split="val")[0] for i in range(50)) if s.target.image == 1)
    dialect = get_dialect("fovea")
    said = dialect.render(sample.target, sample.sizes)
    assert '"image": 2' in said
    item = item_of(sample, "box", {})
    for text, right in ((said, True), (said.replace(', "image": 2', ""), False)):
        answer = dialect.parse(text, sample.sizes, answer_kind="box")
        for name in ("iou", "click_in_box"):
            assert (REWARDS.get(name).function(answer, sample) > 0.5) == right
        (box,) = answer.boxes
        found = Prediction(Status.OK, boxes=(box.xyxy,), images=(box.image,))
        (verdict,) = Screens().judge([item], [found], Screens.rule)
        assert verdict.correct == right


def test_images_stand_where_the_question_has_them():
    sample = next(
        s for s in (pairs.example(i, seed=0, split="train")[0] for i in range(200)) if "<image>" in s.instruction
    )
    asked = question(Profile("qwen3_vl"), sample.question, "box", sample.sizes)
    assert asked.count("<image>") == 2 and "Picture" not in asked and '"image", its number' in asked


def test_sides_and_distances_by_hand():
    assert spatial.direction(RED, BLUE, 96) == "left" and spatial.direction(BLUE, RED, 96) == "right"
    assert spatial.direction(RED, PINK, 96) == "above" and spatial.direction(PINK, RED, 96) == "below"
    assert spatial.direction(BLUE, PINK, 96) is None  # as far to the right as up
    text, answer, rests = spatial.ask_spatial(random.Random(0), "direction", screen(RED, BLUE))
    names = {"left": (RED, BLUE), "right": (BLUE, RED)}
    assert rests == names[answer] and text == (
        f"Is the {rests[0].name} left of, right of, above or below the {rests[1].name}?"
    )
    assert spatial.ask_spatial(random.Random(0), "distance", screen(RED, BLUE)) is None
    assert spatial.ask_spatial(random.Random(0), "direction", screen(RED, replace(RED, box=(50, 50, 70, 70)))) is None


def test_samples_of_space_hold():
    forms = set()
    for index in range(80):
        sample, _ = spatial.example(index, seed=1, split="train", size=96)
        first, *others = sample.target.boxes
        forms.add(sample.meta["form"])
        assert [place.xyxy for place in read_places(sample.thought)] == [
            pytest.approx(box.xyxy, abs=6e-4) for box in sample.target.boxes
        ]
        if sample.meta["form"] == "direction":
            dx, dy = (getattr(first.center, axis) - getattr(others[0].center, axis) for axis in "xy")
            side = ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ("above" if dy < 0 else "below")
            assert side == sample.target.text
        elif sample.meta["form"] == "distance":
            assert sample.instruction.count(sample.target.text) == 1
            assert math.dist((first.center.x, first.center.y), (others[0].center.x, others[0].center.y)) < 1
        else:
            assert not others
        assert not any(f"{color} {kind}" in sample.instruction for color, kind in HELD_OUT)
    assert forms == set(spatial.FORMS)


@pytest.mark.parametrize(("name", "noun"), [("screen_pairs", "screens"), ("spatial", "scenes")])
def test_the_commands_write_the_same_bytes_again(tmp_path, name, noun):
    flags = [f"--train-{noun}", "4", f"--val-{noun}", "0", f"--test-{noun}", "1"]
    for folder in ("a", "b"):
        assert main([name, "--out", str(tmp_path / folder), *flags]) == 0
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    (first, *_), again = (list(read_samples(tmp_path / folder / "train.jsonl")) for folder in "ab")
    assert first == again[0]


def test_both_errors_about_absent_things_are_counted():
    from benchmarks.harness.benchmark import Scored
    from benchmarks.harness.items import BenchmarkItem, ItemImage, Truth

    box = (0.1, 0.1, 0.3, 0.3)
    image = (ItemImage("a.png", 10, 10),)
    there = BenchmarkItem("1", image, "a", Truth(boxes=(box,)), "box", frame="unit")
    gone = BenchmarkItem("2", image, "b", Truth(absent=True), "box", frame="unit")
    place, no, nothing = Prediction(Status.OK, boxes=(box,)), Prediction(Status.OK, absent=True), Prediction(
        Status.NO_ANSWER
    )  # fmt: skip
    pairs_ = [(there, place), (there, no), (there, nothing), (gone, place), (gone, no), (gone, nothing)]
    items, answers = [item for item, _ in pairs_], [answer for _, answer in pairs_]
    verdicts = Screens().judge(items, answers, Screens.rule)
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False, True, False]
    figures = Screens().summarize(Scored([], [], verdicts, Screens.rule))
    assert (figures["invented"], figures["wrongly_declined"], figures["absent"], figures["boxes"]) == (1, 1, 3, 3)
    assert "invented" not in Screens().summarize(Scored([], [], verdicts[:3], Screens.rule))
