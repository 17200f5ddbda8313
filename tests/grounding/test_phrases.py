"""Sentences of ours that hold an instruction read as sentences, whatever the instruction is."""

import pytest

from data_prep.curate.negatives import does_it_fit
from grounding.dialects import get_dialect
from grounding.wording import quoted, request

LEFT, RIGHT = "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"


@pytest.mark.parametrize(
    ("instruction", "told"),
    [
        ("left man", '"left man"'),
        ("Click Save.", '"Click Save"'),
        ("Where is it?", '"Where is it?"'),
        ('Click "Billing".', "'Click \"Billing\"'"),
        ('Click "Bob\'s".', f'{LEFT}Click "Bob\'s"{RIGHT}'),
    ],
)
def test_quotes_do_not_clash(instruction, told):
    assert quoted(instruction) == told
    assert told in get_dialect("qwen3_vl").prompt(instruction, "box", "bare")


@pytest.mark.parametrize(
    ("instruction", "asked", "pair"),
    [
        ("Locate the yellow circle.", "I look for the yellow circle.", "Does HERE show the yellow circle?"),
        ("Where is the blue field?", "I look for the blue field.", "Does HERE show the blue field?"),
        ("Click on the Save button", "I look for the Save button.", "Does HERE show the Save button?"),
        ("left man", 'The request is "left man".', 'Does HERE fit the request "left man"?'),
        ("Select all text", 'The request is "Select all text".', 'Does HERE fit the request "Select all text"?'),
        ("Click Save.", 'The request is "Click Save".', 'Does HERE fit the request "Click Save"?'),
        ("What is it?", 'The question is "What is it?"', 'Does HERE answer the question "What is it?"'),
    ],
)
def test_sentences(instruction, asked, pair):
    assert (request(instruction), does_it_fit("HERE", instruction)) == (asked, pair)
