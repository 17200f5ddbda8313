"""The grammar around an answer: where the thought ends and what counts as the answer.

    bare           ANSWER
    think          <think>THOUGHT</think> ANSWER
    think_answer   <think>THOUGHT</think> <answer>ANSWER</answer>

Reading is lenient (`split_completion` takes any string and never raises), `matches_grammar` is strict; whitespace
between the parts is free in both. Coordinates in a thought are never the answer:

- The thought runs to the *last* `</think>`, also when the opening tag is missing (chat templates that open it).
- A `<think>` opened after that and never closed leaves no answer at all.
- Of the rest, what stands from the first `<answer>` to the last `</answer>` (or the end) is the answer; without the
  tag, all of it. Two `<answer>` blocks therefore both count, and contradict each other if they differ.

A prompt may have written the first tags already: chat templates end in `<think>`, or in `<think></think>` where no
thought is wanted. `opened_by` says what the prompt wrote. A completion is read as that text and the model's own,
joined; `render_completion` leaves it out of what a model is taught.

Nobody asked for tags in "bare", where anything may be a label: there a tag inside a JSON value, as in
``{"bbox_2d": [1, 2, 3, 4], "label": "<think> sign"}``, is plain text. Tags around the answer count as above.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, get_args

from grounding.errors import UsageError
from grounding.registry import nearest

Grammar: TypeAlias = Literal["bare", "think", "think_answer"]
GRAMMARS: tuple[Grammar, ...] = get_args(Grammar)

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"

_OPENED = re.compile(rf"(?:{THINK}\s*+(?:{END_THINK}\s*+(?:{ANSWER}\s*+)?+)?+|{ANSWER}\s*+)\Z")
# Linear: a search begins at a colon before a quote, and ends at the next quote, before which none began.
_VALUE = re.compile(r':\s*+"(?:(?:[^"\\\n]|\\.)*+"|(?:[^"\\]|\\.)*+"(?=\s*+[,}\]]))')


def check_grammar(name: str) -> Grammar:
    """`name` as a `Grammar`. Raises UsageError when there is none of that name."""
    for grammar in GRAMMARS:
        if name == grammar:
            return grammar
    raise UsageError(f"unknown grammar {name!r}{nearest(name, list(GRAMMARS))}")


def opened_by(prompt: str, grammar: Grammar) -> str:
    """The tags of the completion that a rendered prompt ends in, with the spaces after them; mostly none.

    A completion is read as ``opened_by(prompt, grammar) + completion``. An empty thought is nothing in "bare".
    """
    match = _OPENED.search(prompt)
    opened = match.group() if match else ""
    return "" if grammar == "bare" and END_THINK in opened else opened


def render_completion(
    answer_text: str, thought: str | None = None, grammar: Grammar = "think", *, opened: str = ""
) -> str:
    """A completion in `grammar`. No thought is an empty one; "bare" leaves the thought out.

    Args:
        opened: what the prompt has written already (`opened_by`); it is left out.

    Raises:
        ValueError: a tag of the grammar occurs in the answer or the thought, so that it could not be read back.
        UsageError: the prompt opened something that this completion does not go on with.
    """
    thought = thought or ""
    for part in (answer_text, thought):
        if any(tag in part for tag in (THINK, END_THINK, ANSWER, END_ANSWER)):
            raise ValueError(f"text holds a tag of the completion grammar: {part[:80]!r}")
    if grammar == "bare":
        whole = answer_text
    elif grammar == "think":
        whole = f"{THINK}{thought}{END_THINK}\n{answer_text}"
    else:
        whole = f"{THINK}{thought}{END_THINK}\n{ANSWER}{answer_text}{END_ANSWER}"
    for tag in opened.split():
        whole = whole.lstrip()
        if not whole.startswith(tag):
            raise UsageError(
                f"the chat template ends the prompt with {opened.strip()!r}, which a completion of the grammar "
                f"{grammar!r}{' with a thought' if thought else ''} does not continue; "
                + ("set model.grammar to think" if grammar == "bare" else "use one that leaves the thought open")
            )
        whole = whole.removeprefix(tag)
    return whole.lstrip() if END_THINK in opened else whole


def split_completion(text: str, grammar: Grammar = "think") -> tuple[str | None, str, int, bool]:
    """Take a completion apart, in linear time.

    Args:
        grammar: what was asked for; only "bare" lets tags inside JSON values be plain text.

    Returns:
        thought: the text of the thought without its tags, None when there is no tag of one.
        answer: the text the answer is to be read from; empty when the thought is left open.
        offset: where `answer` begins in `text`.
        closed: False when a thought is left open.
    """
    tags = _outside_values(text) if grammar == "bare" else text
    end = tags.rfind(END_THINK)
    after = end + len(END_THINK) if end >= 0 else 0
    reopened = tags.find(THINK, after)
    if reopened >= 0:
        first = tags.find(THINK)
        return text[first + len(THINK) :], "", len(text), False
    thought = None
    if end >= 0:
        begin = tags.find(THINK, 0, end)
        thought = text[begin + len(THINK) : end] if begin >= 0 else text[:end]
    begin = tags.find(ANSWER, after)
    if begin < 0:
        return thought, text[after:], after, True
    begin += len(ANSWER)
    stop = tags.rfind(END_ANSWER, begin)
    return thought, text[begin : stop if stop >= 0 else len(text)], begin, True


def _outside_values(text: str) -> str:
    """`text` with the angle brackets inside JSON values blanked out, every other character in its place.

    A thought that opens the text is left alone up to its first `</think>`: it is prose, where a quote may stay open.
    """
    if "<" not in text or '"' not in text:
        return text
    begin = 0
    if text.lstrip().startswith(THINK):
        end = text.find(END_THINK)
        begin = end + len(END_THINK) if end >= 0 else 0
    return text[:begin] + _VALUE.sub(lambda value: value.group().replace("<", " "), text[begin:])


def matches_grammar(text: str, grammar: Grammar) -> bool:
    """Whether `text` is exactly one completion of `grammar`: every tag once, in order, nothing around or between."""
    rest = text.strip()
    if grammar == "bare":
        rest = _outside_values(rest)
    thoughts, answers = int(grammar != "bare"), int(grammar == "think_answer")
    if not (
        rest.count(THINK) == rest.count(END_THINK) == thoughts
        and rest.count(ANSWER) == rest.count(END_ANSWER) == answers
    ):
        return False
    if not thoughts:
        return True
    if not rest.startswith(THINK):
        return False
    after = rest[rest.find(END_THINK) + len(END_THINK) :].lstrip()
    return not answers or (after.startswith(ANSWER) and after.endswith(END_ANSWER))
