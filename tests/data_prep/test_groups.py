"""Screens of groups: one right answer that only a crop shows, calls that lead to it, the same bytes for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.screens import groups
from data_prep.screens.scenes import COLORS, HELD_OUT, Scene
from grounding.crops import Crop
from grounding.io import read_samples
from grounding.sample import from_row, to_row


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_call_shows_the_target_whole_and_no_other_group(split):
    held_out = 0
    for index in range(150):
        sample, image = groups.example(index, seed=5, split=split)
        (turn,) = sample.turns
        crop = Crop.around(turn.region, *image.size, min_side=96, square=True)
        assert crop.to_crop(sample.target) is not None and crop.size[0] == crop.size[1] >= 96
        assert from_row(to_row(sample)) == sample
        held_out += (sample.meta["color"], sample.meta["kind"]) in HELD_OUT
    assert (held_out > 0) == (split == "test")


def test_a_single_look_cannot_tell_the_kinds_apart():
    """At a quarter of the size two kinds of one color differ by less than their places do."""
    sides = [
        (box[2] - box[0]) / 4
        for index in range(50)
        for group in groups.compose(groups.random.Random(index), 384)
        for box in [element.box for element in group]
    ]
    assert max(sides) <= 5.25  # of a patch of 8 pixels


def test_the_comparison_has_the_same_screens_and_questions():
    for index in range(20):
        with_turns, one = groups.example(index, seed=1, split="train")
        without, other = groups.example(index, seed=1, split="train", turns=0)
        assert not without.turns and without.thought.startswith("I look for")
        assert (with_turns.instruction, with_turns.target) == (without.instruction, without.target)
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_groups_are_apart_and_hold_four_kinds_in_a_color_of_their_own():
    for index in range(60):
        scene = groups.compose(groups.random.Random(index), 384)
        assert len({group[0].color for group in scene}) == 3
        for group in scene:
            assert len({element.kind for element in group}) == 4 and len({element.color for element in group}) == 1
        boxes = [groups.bounds(group).box for group in scene]
        for at, a in enumerate(boxes):
            for b in boxes[:at]:
                gap = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
                assert gap >= groups.APART


def test_windows_frame_their_shapes_in_the_color_the_thought_names():
    for index in range(20):
        scene = groups.compose(groups.random.Random(index), 384)
        shown = tuple(element for group in scene for element in (groups.bounds(group), *group))
        picture = np.asarray(groups.draw(Scene(384, "light", shown)))
        for group in scene:
            x1, y1, x2, y2 = groups.bounds(group).box
            assert all(x1 < e.box[0] and y1 < e.box[1] and e.box[2] < x2 and e.box[3] < y2 for e in group)
            color = COLORS[group[0].color]
            for x, y in ((x1 + 3, (y1 + y2) / 2), ((x1 + x2) / 2, y2 - 3)):
                assert tuple(picture[int(y), int(x)]) == color


def test_regions_have_numbers_that_the_view_resolves_and_are_centered_on_the_whole():
    shifts = []
    for index in range(200):
        sample, _ = groups.example(index, seed=3, split="train")
        region = sample.turns[0].region
        assert all(value * groups.STEPS == pytest.approx(round(value * groups.STEPS)) for value in region.xyxy)
        rng = groups.random.Random(f"groups/3/train/{index}/384")
        scene = groups.compose(rng, 384)
        (window,) = [groups.bounds(g) for g in scene if g[0].color == sample.meta["color"]]
        shifts.append(384 * region.center.x - window.center[0])
    assert abs(np.mean(shifts)) < 2 and 2 < np.std(shifts) < 12


def test_what_is_false_is_found():
    sample, _ = groups.example(0, seed=0, split="train")
    scene = groups.compose(groups.random.Random(0), 384)
    assert "elements are" in groups.verify(sample, scene, 384) or "region shows" in groups.verify(sample, scene, 384)


def test_the_command_writes_every_split(tmp_path):
    counts = ["--train-screens", "3", "--val-screens", "1", "--test-screens", "2"]
    assert main(["screen_groups", "--out", str(tmp_path / "groups"), *counts]) == 0
    assert len(list(read_samples(tmp_path / "groups/train.jsonl"))) == 3
    assert all(sample.turns for sample in read_samples(tmp_path / "groups/test.jsonl"))


def test_thoughts_of_turns_are_not_overwritten(tmp_path, capsys):
    counts = ["--train-screens", "2", "--val-screens", "1", "--test-screens", "1"]
    assert main(["screen_groups", "--out", str(tmp_path / "groups"), *counts]) == 0
    assert main(["cot", "--root", str(tmp_path / "groups"), "--out", str(tmp_path / "thoughts")]) != 0
    assert "4 has turns" in capsys.readouterr().err
