"""Instructions inside sentences of ours: in quotes that do not clash, or as the thing they name."""

from __future__ import annotations

import re

_ASKS_FOR = re.compile(
    r"(?:please\s+)?(?:(?:click|tap|press)(?:\s+on)?|find|locate|show\s+me|look\s+for|point\s+(?:at|to)"
    r"|where\s+(?:is|are))\s+(?=(?:the|a|an|every|all)\s)(?P<thing>.+)",
    re.IGNORECASE | re.DOTALL,
)


def quoted(text: str) -> str:
    """`text` in quotes, without the full stop at its end; of another kind than those in it."""
    text = text.strip().removesuffix(".")
    if '"' not in text:
        return f'"{text}"'
    return f"'{text}'" if "'" not in text else f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"


def thing(instruction: str) -> str | None:
    """What an instruction asks to find, without the asking: "the red star" of "Where is the red star?".

    None where it is something else: a name ("left man"), a task ("open the file menu"), another question.
    """
    match = _ASKS_FOR.fullmatch(instruction.strip().rstrip(" .?!"))
    return match["thing"] if match else None


def request(instruction: str) -> str:
    """A sentence that says what is asked for: "I look for the red star.", "The request is "open the file menu"."."""
    named = thing(instruction)
    if named is not None:
        return f"I look for {named}."
    if instruction.rstrip().endswith("?"):
        return f"The question is {quoted(instruction)}"
    return f"The request is {quoted(instruction)}."
