"""The scanner beneath the JSON dialects, and linear time of every dialect on strings made to hurt."""

from __future__ import annotations

import gc
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.parsing import MAX_PLACES, normalize, numbers_in, scan, unquote


def test_groups_know_their_key_owner_and_place() -> None:
    text = 'a [1, 2] {"k": [3, 4], "n": {"K2": [[5], [6, 7]]}}'
    groups = scan(text).groups
    assert [(group.numbers, group.key) for group in groups] == [
        ((1, 2), None),
        ((3, 4), "k"),
        ((5,), "k2"),
        ((6, 7), "k2"),
    ]
    assert [text[group.start : group.end] for group in groups] == ["[1, 2]", "[3, 4]", "[5]", "[6, 7]"]
    assert groups[0].owner == -1
    assert groups[1].owner != groups[2].owner
    assert groups[2].parent == groups[3].parent != -1
    assert all(group.whole for group in groups)


def test_scalars_stand_where_they_say() -> None:
    text = '[{"label": "a \\"b\\"", "n": -1.5, "none": null}, {"label": "c"}]'
    first, second = scan(text).objects.values()
    assert {key: (value.kind, value.text) for key, value in first.items()} == {
        "label": ("string", 'a \\"b\\"'),
        "n": ("number", "-1.5"),
        "none": ("word", "null"),
    }
    assert second["label"].text == "c"
    assert text[first["n"].start : first["n"].end] == "-1.5"
    assert unquote(first["label"].text) == 'a "b"'


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("[1, 2]", True),
        ("[1, 2", False),
        ("[1, a, 2]", False),
        ("[1,, 2]", False),
        ('["1", "2"]', True),
        ("[1, 2}", False),
    ],
)
def test_whole_groups_hold_nothing_but_numbers(text: str, whole: bool) -> None:
    (group,) = scan(text).groups
    assert group.numbers == (1, 2)
    assert group.whole is whole


def test_brackets_that_do_not_match_close_what_they_can() -> None:
    groups = scan("]}) [[1, 2} {[3, 4]").groups
    assert [group.numbers for group in groups] == [(1, 2), (3, 4)]


def test_brackets_and_keys_in_strings_are_text() -> None:
    assert scan('{"a": "[1, 2] {\\"bbox_2d\\": [3, 4]}", "b": [5, 6]}').groups[0].numbers == (5, 6)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("7.", 7),
        (".5", 0.5),
        ("1e3", 1000),
        ("-1.5E-1", -0.15),
        ("0" * 5000 + "7", 7),
    ],
)
def test_numbers(written: str, number: float) -> None:
    assert numbers_in(f"x {written} y") == (number,)
    assert scan(f"[{written}]").groups[0].numbers == (number,)


def test_numbers_that_are_none() -> None:
    numbers = scan("[nan, NaN, -inf, Infinity, 1e400]").groups[0].numbers
    assert [math.isfinite(number) for number in numbers] == [False] * 5


@given(st.text())
def test_normalizing_moves_nothing(text: str) -> None:
    plain = normalize(text)
    assert len(plain) == len(text)
    assert all(new == old or not old.isascii() for new, old in zip(plain, text, strict=True))


def test_digits_of_any_script() -> None:
    assert normalize("１２ ٣٤ ५६ 𝟕𝟖 −９．５，［］") == "12 34 56 78 -9.5,[]"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


def numeric_lists(value: object) -> list[tuple[float, ...]]:
    """Every list of two or more plain numbers in a JSON value, in order."""
    if isinstance(value, dict):
        return [found for inner in value.values() for found in numeric_lists(inner)]
    if not isinstance(value, list):
        return []
    if len(value) > 1 and all(isinstance(inner, float) for inner in value):
        return [tuple(value)]
    return [found for inner in value for found in numeric_lists(inner)]


@given(JSON)
def test_proper_json_is_read_as_json(value: object) -> None:
    text = json.dumps([value], ensure_ascii=False)
    found = [group.numbers for group in scan(text).groups if group.whole and len(group.numbers) > 1]
    wanted = numeric_lists(value)
    assert [numbers for numbers in found if numbers in wanted] == wanted


def test_reading_stops_after_the_largest_number_of_places() -> None:
    assert not scan("[1, 2]" * MAX_PLACES).cut
    result = scan("[1, 2]" * (10 * MAX_PLACES))
    assert result.cut
    assert len(result.groups) == MAX_PLACES + 1


HURTFUL = [
    "[", "{", '{"a":', "(", "((1,2),", "[1,", "[1,2,3,4", '"', "'", "“", '\\"', '{"\\', '"a" ', '"a":', "9", "9 ",
    " ", "\n", "1:", "1 - ", "is not ", "no ", "<think>", "<answer>", "</think>", "<ref>", "<ref>a</ref>", "<box>",
    "<point ", '<points x1="1"', '<point x="1" alt="', "<loc_1>", "<loc", "<patch_index_0001>", "<phrase>",
    "pyautogui.click(", "Action:", "image 1 [", "((", "1e", "-", ".", "a(x = ", "１", "(1,2),(", '["1",',
    '{"x1": 1, "y1": 2}, ', '"a\n', '"\n\\"', '"\n"', "'\n", "type('", "text='", "no a ", "[1,2],",
]  # fmt: skip
READERS = ["qwen3_vl", "qwen2_vl", "ui_tars", "aguvis", "florence2", "paligemma", "kosmos2", "molmo"]


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_length_and_no_faster(name: str) -> None:
    """From 50 KB to 200 KB: four times the time is linear, sixteen times would be quadratic."""
    dialect, sizes = get_dialect(name), (ImageSize(100, 100),)

    def seconds(piece: str, length: int) -> float:
        text = '{"bbox_2d": [' + piece * (length // len(piece))
        begin = time.process_time()
        dialect.parse(text, sizes, grammar="bare", answer_kind="span")
        dialect.read_thought(text, sizes)
        return max(time.process_time() - begin, 0.002)

    gc.disable()  # its passes over everything the test run keeps alive are not what is measured
    try:
        for piece in HURTFUL:
            short = long = math.inf
            for _ in range(8):  # a busy machine only ever adds time: compare the best of as many runs as it takes
                short, long = min(short, seconds(piece, 50_000)), min(long, seconds(piece, 200_000))
                if long < 8 * short:
                    break
            assert long < 8 * short, piece
    finally:
        gc.enable()


def test_brackets_nested_a_hundred_thousand_deep() -> None:
    deep = '{"a": [' * 50_000
    dialect, sizes = get_dialect("qwen3_vl"), (ImageSize(100, 100),)
    answer = dialect.parse(
        deep + '{"bbox_2d": [1, 2, 3, 4]}' + "]}" * 50_000, sizes, grammar="bare", answer_kind="box"
    )
    assert answer.box is not None
    assert answer.box.xyxy == (0.001, 0.002, 0.003, 0.004)


def test_a_million_boxes_take_no_longer_than_a_thousand() -> None:
    begin = time.process_time()
    get_dialect("qwen3_vl").parse('{"bbox_2d": [1, 2, 3, 4]}, ' * 10**6, (ImageSize(100, 100),), answer_kind="boxes")
    assert time.process_time() - begin < 2
