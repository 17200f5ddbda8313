"""The think/answer grammar: where an answer begins, and what matches to the letter."""

from __future__ import annotations

import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.completion import (
    GRAMMARS,
    Grammar,
    check_grammar,
    matches_grammar,
    opened_by,
    render_completion,
    split_completion,
)
from grounding.errors import UsageError

PLAIN = st.text().filter(lambda text: "<" not in text)
TAGGED = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<", "think>", "[1, 2]", "\n", "a"]), max_size=12
).map("".join)


@pytest.mark.parametrize(
    ("text", "thought", "answer", "closed"),
    [
        ("[1, 2]", None, "[1, 2]", True),
        ("", None, "", True),
        ("<think>left</think>\n[1, 2]", "left", "\n[1, 2]", True),
        ("left</think>[1, 2]", "left", "[1, 2]", True),  # the template opened the thought
        ("<think>left</think><answer>[1, 2]</answer>", "left", "[1, 2]", True),
        ("<answer>[1, 2]</answer>", None, "[1, 2]", True),
        ("<think>t</think><answer>[1, 2]", "t", "[1, 2]", True),
        ("<think>[1, 2]", "[1, 2]", "", False),
        ("[1, 2]<think>", "", "", False),
        ("<think>a</think>[1, 2]<think>b", "a</think>[1, 2]<think>b", "", False),
        ("<think>a</think>[1, 2]<think>b</think>[3, 4]", "a</think>[1, 2]<think>b", "[3, 4]", True),
        ("<think><answer>[1, 2]</answer></think>[3, 4]", "<answer>[1, 2]</answer>", "[3, 4]", True),
        ("<answer>a</answer> and <answer>b</answer> c", None, "a</answer> and <answer>b", True),
        ("<think>x</think>[9, 9]<answer>[1, 2]</answer>[8, 8]", "x", "[1, 2]", True),
    ],
)
def test_splitting(text: str, thought: str | None, answer: str, closed: bool) -> None:
    assert split_completion(text) == (thought, answer, text.index(answer) if answer else len(text), closed)


@given(st.one_of(st.text(), TAGGED))
def test_the_offset_is_where_the_answer_stands(text: str) -> None:
    thought, answer, offset, closed = split_completion(text)
    assert text[offset : offset + len(answer)] == answer
    assert thought is None or thought in text
    assert closed or answer == ""


@given(st.one_of(st.text(), TAGGED))
def test_nothing_of_a_thought_is_in_the_answer(text: str) -> None:
    _, answer, offset, closed = split_completion(text)
    assert "</think>" not in answer
    assert "<think>" not in answer
    assert not closed or text.rfind("</think>") < offset


@pytest.mark.parametrize("grammar", GRAMMARS)
@given(answer=PLAIN, thought=PLAIN)
def test_rendered_completions_match_and_come_back(grammar: Grammar, answer: str, thought: str) -> None:
    text = render_completion(answer, thought, grammar)
    assert matches_grammar(text, grammar)
    read_thought, read_answer, _, closed = split_completion(text)
    assert closed
    assert read_answer.strip() == answer.strip()
    assert read_thought == (None if grammar == "bare" else thought)


def test_forms() -> None:
    assert render_completion("A", "T", "bare") == "A"
    assert render_completion("A", "T", "think") == "<think>T</think>\nA"
    assert render_completion("A", "T", "think_answer") == "<think>T</think>\n<answer>A</answer>"
    assert render_completion("A") == "<think></think>\nA"


@pytest.mark.parametrize("part", ["a <think> b", "</think>", "</answer>"])
def test_parts_that_could_not_be_read_back_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="tag of the completion grammar"):
        render_completion(part)
    with pytest.raises(ValueError, match="tag of the completion grammar"):
        render_completion("A", part)


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("A", {"bare"}),
        ("<think>T</think>A", {"think"}),
        (" <think>T</think> \n A \n", {"think"}),
        ("<think>T</think><answer>A</answer>", {"think_answer"}),
        ("<think>T</think>\n<answer>A</answer>\n", {"think_answer"}),
        ("<think>T</think>x<answer>A</answer>", set()),
        ("<think>T</think><answer>A</answer>x", set()),
        ("x<think>T</think>A", set()),
        ("T</think>A", set()),
        ("<think>T", set()),
        ("<think>T</think>A</think>", set()),
        ("<think>a</think><think>b</think>A", set()),
        ("<answer>A</answer>", set()),
        ("<think>T</think><answer>A</answer><answer>A</answer>", set()),
        ("<answer>A</answer><think>T</think>", set()),
        ("</think><think>A", set()),
    ],
)
def test_strict_grammar(text: str, matching: set[str]) -> None:
    assert {grammar for grammar in GRAMMARS if matches_grammar(text, grammar)} == matching


def test_unknown_grammar_names_the_nearest() -> None:
    assert check_grammar("think") == "think"
    with pytest.raises(UsageError, match="did you mean 'think_answer'"):
        check_grammar("think_answr")


LABELED = '{"bbox_2d": [1, 2, 3, 4], "label": "a <think> b </think> <answer> c </answer>"}'


@pytest.mark.parametrize(
    ("before", "after", "thought"),
    [
        ("", "", None),
        ("<think>left</think>", "", "left"),
        ("<think>left</think> <answer>", "</answer>", "left"),
        ("left</think>", "", "left"),
        ("<answer>", "</answer>", None),
        ('<think>it says: "OK, at [9, 9]</think>', "", 'it says: "OK, at [9, 9]'),  # a quote left open
    ],
)
def test_tags_in_a_label_are_plain_text_where_nobody_asked_for_tags(before, after, thought) -> None:
    text = before + LABELED + after
    assert split_completion(text, "bare") == (thought, LABELED, len(before), True)
    assert matches_grammar(text, "bare") is (before == "")


def test_a_value_may_hold_line_ends() -> None:
    text = '{"label": "a\n<think> sign", "bbox_2d": [1, 2, 3, 4]}'
    assert split_completion(text, "bare") == (None, text, 0, True)
    prose = 'He said: "look\n<think>left</think> "there" [1, 2]'
    assert split_completion(prose, "bare")[1] == ' "there" [1, 2]'


def test_tags_in_a_label_count_where_they_were_asked_for() -> None:
    assert split_completion(f"<think>t</think>{LABELED}")[1] != LABELED
    assert not matches_grammar(f"<think>t</think>{LABELED}", "think")


@given(st.one_of(st.text(), TAGGED, st.text(alphabet='<>/think":\\, \n{}')))
def test_reading_bare_never_raises_and_the_offset_is_where_the_answer_stands(text: str) -> None:
    thought, answer, offset, closed = split_completion(text, "bare")
    assert text[offset : offset + len(answer)] == answer
    assert thought is None or thought in text
    assert closed or answer == ""
    assert isinstance(matches_grammar(text, "bare"), bool)


@pytest.mark.parametrize(
    "piece", [': "', ':"\\', ': "<think>', '"label": "</think>', ":   ", ':"\n', ':"\\"\n', '"\n:"']
)
def test_reading_bare_takes_linear_time(piece: str) -> None:
    def seconds(count: int) -> float:
        text = "<" + piece * count
        work = lambda: split_completion(text, "bare")  # noqa: E731
        return min(timeit.repeat(work, timer=time.process_time, number=1, repeat=5))

    assert seconds(80_000) < 40 * max(seconds(8_000), 1e-4)


OPEN, SKIPPED = "<think>\n", "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("prompt", "grammar", "opened"),
    [
        ("<|im_start|>assistant\n", "think", ""),
        ("<|im_start|>assistant\n<think>\n", "think", OPEN),
        ("<|im_start|>assistant\n<think>\n", "bare", OPEN),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "think_answer", SKIPPED),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "bare", ""),  # nothing of a bare answer is written
        ("First think between <think> and </think>.<|im_end|>\n<|im_start|>assistant\n", "think", ""),
        ("<think>" * 3, "think", "<think>"),
    ],
)
def test_what_the_prompt_opened(prompt: str, grammar: Grammar, opened: str) -> None:
    assert opened_by(prompt, grammar) == opened


def test_a_completion_goes_on_from_what_the_prompt_opened() -> None:
    assert render_completion("A", "T", "think", opened=OPEN) == "T</think>\nA"
    assert render_completion("A", "T", "think_answer", opened=OPEN) == "T</think>\n<answer>A</answer>"
    assert render_completion("A", None, "think_answer", opened=SKIPPED) == "<answer>A</answer>"
    assert render_completion("A", None, "think", opened=SKIPPED) == "A"


@pytest.mark.parametrize("grammar", ["think", "think_answer"])
@pytest.mark.parametrize("opened", ["", "<think>", OPEN])
@given(answer=PLAIN, thought=PLAIN)
def test_joined_to_what_the_prompt_opened_it_matches(
    grammar: Grammar, opened: str, answer: str, thought: str
) -> None:
    text = opened + render_completion(answer, thought, grammar, opened=opened)
    assert matches_grammar(text, grammar)
    assert matches_grammar(SKIPPED + render_completion(answer, None, grammar, opened=SKIPPED), grammar)


@pytest.mark.parametrize(("opened", "thought", "grammar"), [(OPEN, None, "bare"), (SKIPPED, "T", "think")])
def test_what_does_not_go_on_from_the_prompt_is_refused(opened: str, thought: str | None, grammar: Grammar) -> None:
    with pytest.raises(UsageError, match="the chat template ends the prompt with '<think>"):
        render_completion("A", thought, grammar, opened=opened)
