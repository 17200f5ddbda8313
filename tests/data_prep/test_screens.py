"""Screens: exact boxes, verified thoughts, no leaks between splits, the same bytes for the same seed."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.__main__ import main
from data_prep.screens import generated as screens
from data_prep.screens.scenes import (
    COLORS,
    DIFFICULTIES,
    GROUNDS,
    HELD_OUT,
    SHAPES,
    Element,
    Query,
    Scene,
    compose,
    count_named,
    draw,
    holds,
)
from grounding.io import open_image, read_samples
from grounding.sample import from_row, to_row
from grounding.targets import Absent, Box
from grounding.wording import read_places

indices = st.integers(0, 10_000)
difficulties = st.sampled_from(DIFFICULTIES)


@given(indices, difficulties, st.sampled_from(["train", "test"]))
@settings(max_examples=60, deadline=None)
def test_a_sample_is_a_function_of_its_arguments(index, difficulty, split):
    first, image = screens.example(index, seed=3, split=split, difficulty=difficulty)
    again, same = screens.example(index, seed=3, split=split, difficulty=difficulty)
    assert first == again and image.tobytes() == same.tobytes()
    assert from_row(to_row(first)) == first


@given(indices, difficulties)
@settings(max_examples=60, deadline=None)
def test_a_thought_in_steps_changes_only_the_thought(index, difficulty):
    kwargs = {"seed": 3, "split": "train", "difficulty": difficulty}
    short, image = screens.example(index, **kwargs)
    long, same = screens.example(index, **kwargs, thought="steps")
    assert image.tobytes() == same.tobytes()
    assert replace(long, thought=short.thought) == short
    assert long.thought.startswith(short.thought)
    if isinstance(long.target, Box):
        *_, middle, box = read_places(long.thought)
        np.testing.assert_allclose((middle.x, middle.y), (long.target.center.x, long.target.center.y), atol=6e-4)
        np.testing.assert_allclose(box.xyxy, long.target.xyxy, atol=6e-4)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_the_box_is_exactly_where_the_pixels_are(kind, ground):
    scene = Scene(96, ground, (Element(kind, "red", (20, 30, 50, 60)),))
    pixels = np.asarray(draw(scene)).astype(int)
    ys, xs = np.nonzero(np.abs(pixels - GROUNDS[ground]).sum(-1) > 60)
    drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert np.abs(np.subtract(drawn, (20, 30, 50, 60))).max() <= 1


@given(indices, difficulties)
@settings(max_examples=100, deadline=None)
def test_exactly_one_element_fits_the_question(index, difficulty):
    scene, query = compose(random.Random(index), difficulty, 96, held_out_share=0.0)
    if query.target is None:
        assert count_named(scene, query.text.removeprefix("the ")) == 0
        return
    fitting = [e for e in scene.elements if e.name == query.target.name]
    if query.relation:
        assert len(fitting) > 1
        fitting = [e for e in fitting if holds(e, query.relation, query.anchor)]
    assert fitting == [query.target]


@given(indices, difficulties)
@settings(max_examples=60, deadline=None)
def test_training_screens_hold_no_held_out_combination(index, difficulty):
    scene, _ = compose(random.Random(index), difficulty, 96, held_out_share=0.0)
    assert not {(e.color, e.kind) for e in scene.elements} & HELD_OUT


def test_about_half_of_the_test_targets_are_held_out_combinations():
    held_out = [screens.example(i, seed=0, split="test", difficulty=3)[0].meta["held_out"] for i in range(200)]
    assert 70 <= sum(held_out) <= 130


def test_splits_share_no_screen():
    pictures = {
        split: {screens.example(i, seed=0, split=split, difficulty=2)[1].tobytes() for i in range(100)}
        for split in ("train", "val", "pretrain")
    }
    assert not pictures["train"] & pictures["val"]
    assert not pictures["train"] & pictures["pretrain"]


def test_a_wrong_thought_is_found_out():
    red, blue = Element("circle", "red", (5, 5, 25, 25)), Element("square", "blue", (60, 60, 90, 90))
    scene = Scene(96, "light", (red, blue))
    query = Query("the red circle", red)
    right = "I look for the red circle. It is at the top left."
    assert screens.think(scene, query) == right
    assert screens.verify(right, scene, query) == ""
    assert "another place" in screens.verify(right.replace("top left", "bottom right"), scene, query)
    assert "does not name" in screens.verify(right.replace("red", "blue"), scene, query)
    assert "on the screen" in screens.verify("It is not there.", scene, Query("the red circle", None))
    above = Query("the red circle above the blue square", red, blue, "above")
    lie = screens.think(scene, above).replace("0.781", "0.100")
    assert screens.think(scene, above) != lie
    assert "elsewhere" in screens.verify(lie, scene, above)
    steps = screens.think(scene, query, "steps")
    assert steps == f"{right} It is at [0.156, 0.156]. It is at [0.052, 0.052, 0.260, 0.260]."
    assert screens.verify(steps, scene, query) == ""
    assert "at [0.556, 0.156]" in screens.verify(steps.replace("[0.156", "[0.556"), scene, query)
    assert "says more" in screens.verify(f"{right} It is at the bottom.", scene, query)
    assert "says more" in screens.verify(f"{steps} So it is.", scene, query)
    assert "0.270]" in screens.verify(steps.replace("0.260]", "0.270]"), scene, query)


def test_relations_are_about_centers():
    left, right = Element("circle", "red", (0, 0, 10, 10)), Element("circle", "red", (40, 0, 50, 10))
    assert holds(left, "left of", right) and holds(right, "right of", left)
    assert not holds(left, "above", right) and not holds(left, "below", right)


def test_unknown_split_and_difficulty_are_errors():
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        screens.example(0, seed=0, split="dev", difficulty=1)
    with pytest.raises(ValueError, match="difficulty 9"):
        screens.example(0, seed=0, split="train", difficulty=9)


def test_the_command_writes_a_data_set(tmp_path):
    out = tmp_path / "screens"
    counts = ["--train-screens", "5", "--val-screens", "2", "--test-screens", "3", "--difficulty", "5"]
    assert main(["screens", "--out", str(out), *counts]) == 0
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        samples = list(read_samples(out / f"{split}.jsonl"))
        assert len(samples) == count
        for sample in samples:
            assert isinstance(sample.target, (Box, Absent))
            assert open_image(out, sample.images[0]).size == (128, 128)


def test_colors_are_told_apart():
    values = np.array(list(COLORS.values()))
    distance = np.abs(values[:, None] - values[None]).sum(-1) + 1000 * np.eye(len(values), dtype=int)
    assert distance.min() > 60
