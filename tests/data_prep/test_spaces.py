"""Numbers that fit another space far better than the chosen one are asked about, by all rows together."""

from __future__ import annotations

import json
import random

import pytest

from data_prep import SOURCES
from data_prep.pipeline.spaces import Spaces
from data_prep.pipeline.writer import run
from grounding.errors import UsageError
from tests.data_prep.helpers_data import convert, parse, write_jsonl, write_picture

EXTENTS = {"pixels": None, "thousandths": (1000, 1000), "percent": (100, 100), "fractions": (1, 1)}


def verdict(tmp_path, written, chosen, size, *, rows, outside=0):
    """What is likelier for boxes drawn evenly in space `written`, of which `outside` reach beyond it."""
    spaces, dice = Spaces("--unit", parse("se_gui", tmp_path, tmp_path)), random.Random(rows)
    for number in range(rows):
        sides = EXTENTS[written] or size
        xs, ys = (sorted(dice.uniform(0, side) for _ in range(2)) for side in sides)
        xs[1] += sides[0] * 0.2 if number < outside else 0
        numbers = (xs[0], ys[0], xs[1], ys[1])
        if sides[0] > 1:
            numbers = tuple(map(round, numbers))
        spaces.add(numbers, size, EXTENTS[chosen] or size)
    return spaces.better()


@pytest.mark.parametrize("size", [(640, 480), (400, 300), (1920, 1080), (1170, 2532)])
@pytest.mark.parametrize("written", EXTENTS)
@pytest.mark.parametrize("chosen", EXTENTS)
def test_a_wrong_space_is_seen_and_a_right_one_never_doubted(tmp_path, size, written, chosen):
    for rows in (12, 100):
        assert verdict(tmp_path, written, chosen, size, rows=rows) == (None if written == chosen else written)


@pytest.mark.parametrize("size", [(640, 480), (900, 700), (1000, 1000), (1920, 1080)])
@pytest.mark.parametrize("space", EXTENTS)
def test_a_few_boxes_outside_are_no_alarm(tmp_path, size, space):
    assert verdict(tmp_path, space, space, size, rows=100, outside=4) is None


def test_a_handful_of_rows_proves_nothing(tmp_path):
    assert verdict(tmp_path, "pixels", "thousandths", (400, 300), rows=9) is None
    assert verdict(tmp_path, "fractions", "pixels", (400, 300), rows=4) == "fractions"


def boxes(root, rows):
    write_picture(root / "a.jpg", 640, 480)
    dice = random.Random(0)
    made = []
    for number in range(rows):
        x, y = dice.randrange(0, 500), dice.randrange(0, 400)
        said = json.dumps({"bbox_2d": [x, y, x + dice.randrange(20, 140), y + dice.randrange(20, 80)]})
        turns = [{"from": "human", "value": f"<image>thing {number}"}, {"from": "gpt", "value": said}]
        made.append({"image": "a.jpg", "conversations": turns})
    write_jsonl(root / "d.jsonl", made)


def test_pixels_in_a_dialect_of_thousandths_are_refused(tmp_path):
    boxes(tmp_path, 12)
    flags = ("--annotations", "d.jsonl", "--dialect")
    with pytest.raises(UsageError, match=r"dialect qwen3_vl: the numbers of the 12 regions .* look like pixels"):
        convert("sharegpt", tmp_path, *flags, "qwen3_vl")
    assert len(convert("sharegpt", tmp_path, *flags, "qwen3_vl", "--trust-space")[0]) == 12
    assert len(convert("sharegpt", tmp_path, *flags, "qwen2_5_vl", "--seen", "original")[0]) == 12


def test_a_run_that_a_limit_ends_is_checked_too(tmp_path):
    boxes(tmp_path, 40)
    flags = ("--annotations", "d.jsonl", "--dialect", "qwen3_vl", "--limit", "15")
    args = parse("sharegpt", tmp_path, tmp_path.with_name("made"), *flags)
    with pytest.raises(UsageError, match="look like pixels"):
        run(SOURCES.get("sharegpt"), args)
    assert not (tmp_path.with_name("made") / "train.jsonl").exists()
