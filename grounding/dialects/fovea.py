"""The embedded model's words: Qwen3-VL's answers, asked for with the bare instruction.

The model is too small to follow directions about formats; it answers in the one it was trained in.
"""

from __future__ import annotations

from collections.abc import Sequence

from grounding.answer import ImageSize
from grounding.completion import Grammar
from grounding.dialects import DIALECTS
from grounding.dialects.base import Space
from grounding.dialects.json_family import JsonDialect


class FoveaDialect(JsonDialect):
    """`JsonDialect` in thousandths, with nothing around the instruction."""

    def prompt(
        self,
        instruction: str,
        answer_kind: str,
        grammar: Grammar = "think",
        sizes: Sequence[ImageSize] | None = None,
        *,
        template: str | None = None,
    ) -> str:
        asked = instruction if sizes is None else self.render_places(instruction, sizes)
        return asked if template is None else template.replace("{instruction}", asked)


DIALECTS.register("fovea")(FoveaDialect("fovea", Space(1000)))
