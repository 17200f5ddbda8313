"""When an answer in words is right."""

from __future__ import annotations

import re

_TOLERANCE = 0.05
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = re.compile(r"[^\w\s.%-]")


def relaxed_match(answer: str, truth: str) -> bool:
    """ChartQA's rule: numbers within 5 %, anything else equal up to case (Masry et al. 2022)."""
    first, second = _number(answer), _number(truth)
    if first is not None and second is not None:
        return first == second if second == 0 else abs(first - second) / abs(second) <= _TOLERANCE
    return answer.strip().lower() == truth.strip().lower()


def _number(text: str) -> float | None:
    text = text.strip().replace(",", "")
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def plain(text: str) -> str:
    """Lower case, without articles, punctuation and doubled spaces."""
    return " ".join(_ARTICLES.sub(" ", _MARKS.sub(" ", text.lower())).strip(" .").split())
