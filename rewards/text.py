"""Rewards for an answer in words (charts, documents, visual question answering), its evidence box left unscored.

Only a whole answer counts: a text that contains the right one among others, or lists every choice, scores 0.
"""

from __future__ import annotations

import re
import unicodedata
from math import isfinite

from grounding.answer import Answer
from grounding.errors import BrokenRow
from grounding.geometry import at_least
from grounding.sample import Sample
from grounding.targets import TextBox
from rewards import reward

LONGEST = 1000  # characters; no reference answer is longer, and a page of text is not an answer
NUMBER = re.compile(r"[-+]?((\d{1,3}(,\d{3})+|\d+)(\.\d*)?|\.\d+)(e[-+]?\d{1,3})?", re.ASCII)
CHOICE = re.compile(r"\(?([a-z])(?:[).:](?:\s.*)?)?", re.DOTALL)


def _reference(sample: Sample) -> str:
    if not isinstance(sample.target, TextBox) or not normalize(sample.target.text):
        raise BrokenRow(sample.id, "the target has no text to compare an answer with")
    return sample.target.text


def _words(answer: Answer) -> str | None:
    return answer.text if answer.ok and answer.text is not None and len(answer.text) <= LONGEST else None


def normalize(text: str) -> str:
    """NFKC (full-width digits become plain ones), case folded, spaces collapsed, outer punctuation off."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?\"'`")


def number(text: str) -> float | None:
    """The number a whole text stands for ("1,234.5", "$3", "45 %"), None when it is not just that."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip().rstrip(".,;:!?")
    bare = plain.removeprefix("$").removeprefix("€").removesuffix("%").strip()
    if NUMBER.fullmatch(bare) is None:
        return None
    value = float(bare.replace(",", ""))
    return value if isfinite(value) else None


@reward(
    "text_match", range=(0, 1), source="Ground-R1 (arXiv 2505.20272), VisRL (arXiv 2503.07523)", kinds=("text_box",)
)
def text_match(answer: Answer, sample: Sample) -> float:
    """1 if the answer's words equal the target's after `normalize`, else 0."""
    words = _words(answer)
    return float(normalize(_reference(sample)) == normalize(words)) if words is not None else 0.0


@reward("text_number", range=(0, 1), source="relaxed accuracy of ChartQA (arXiv 2203.10244)", kinds=("text_box",))
def text_number(answer: Answer, sample: Sample, *, tolerance: float = 0.05) -> float:
    """1 if |answer - target| <= tolerance * |target| for two numbers; words must match exactly."""
    reference, words = _reference(sample), _words(answer)
    if words is None:
        return 0.0
    wanted, given = number(reference), number(words)
    if wanted is None or given is None:
        return float(wanted is None and normalize(reference) == normalize(words))
    return float(at_least(tolerance * abs(wanted), abs(given - wanted)))


@reward("text_choice", range=(0, 1), source="multiple choice as in VLM-R1 (arXiv 2504.07615)", kinds=("text_box",))
def text_choice(answer: Answer, sample: Sample) -> float:
    """1 if both name the same one letter: "B", "(b)", "B. the red one"; a bare listing of letters names none."""
    words = _words(answer)
    wanted = _letter(_reference(sample))
    if wanted is None:
        raise BrokenRow(
            sample.id, f"the target's text {_reference(sample)!r} is not a choice such as 'B' or '(B) ...'"
        )
    return float(words is not None and _letter(words) == wanted)


def _letter(text: str) -> str | None:
    bare = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(re.findall(r"(?<![a-z])[a-z][).:,]", bare)) > 1:
        return None
    match = CHOICE.fullmatch(bare)
    return match.group(1) if match else None
