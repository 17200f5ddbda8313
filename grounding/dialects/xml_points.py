"""Points as XML: Molmo's own form, which Qwen2.5-VL and Qwen3-VL write too, each in its own space.

<point x="12.3" y="45.6" alt="the red cup">the red cup</point>
<points x1="12.3" y1="45.6" x2="70.0" y2="8.1" alt="cups">cups</points>
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from types import MappingProxyType

from grounding.answer import ImageSize, Status
from grounding.dialects import DIALECTS
from grounding.dialects.base import Dialect, Found, Reading, Space, forms
from grounding.parsing import MAX_PLACES, NUMBER
from grounding.targets import Box, Point

_TAG = re.compile(r"<points?\b(?P<inside>[^<>]*+)(?P<close>>?)")
_ATTRIBUTE = re.compile(rf"""\b(?P<axis>[xy])(?P<rank>[0-9]*+)\s*+=\s*+["']\s*+(?P<number>{NUMBER})\s*+["']""")
_ALT = re.compile(r"""\balt\s*+=\s*+"(?P<alt>[^"]*+)\"""")
_WORDS = r' alt="[^"<>]*+">[^<>]*+'
_ONE = rf'<point x="[0-9.]++" y="[0-9.]++"{_WORDS}</point>'


def xml_points(text: str, original: str, found: Callable[..., Found], sizes: Sequence[ImageSize]) -> list[Found]:
    """The point tags in an answer text, as far as `MAX_PLACES` goes; `found` is the dialect's `_found`."""
    return list(islice(_points(text, original, found, sizes), MAX_PLACES + 1))


def _points(text: str, original: str, found: Callable[..., Found], sizes: Sequence[ImageSize]) -> Iterator[Found]:
    for tag in _TAG.finditer(text):
        axes: dict[str, list[float]] = {"x": [], "y": []}
        begin, end = tag.end("inside"), tag.start("inside")
        for attribute in _ATTRIBUTE.finditer(text, tag.start("inside"), tag.end("inside")):
            axes[attribute["axis"]].append(float(attribute["number"]))
            begin, end = min(begin, attribute.start()), max(end, attribute.end())
        if not axes["x"] and not axes["y"]:
            if re.match(r"\s+[xy]", tag["inside"]):
                yield Found("point", Status.MALFORMED, tag.start(), tag.end())
            continue  # a <point> of another family
        if len(axes["x"]) != len(axes["y"]) or not tag["close"]:
            yield Found("point", Status.MALFORMED, tag.start(), tag.end())
            continue
        alt = _ALT.search(text, tag.start("inside"), tag.end("inside"))
        label = html.unescape(original[slice(*alt.span("alt"))]) if alt else None
        for pair in zip(axes["x"], axes["y"], strict=True):
            yield found(pair, sizes, begin, end, label=label or None)


class Molmo(Dialect):
    """Molmo (first generation): points only, in percent of the image with one decimal, x first.

    Absence is "This isn't in the image.", as in its training data.
    """

    space = Space(100, decimals=1)
    kinds = frozenset({"point", "points", "absent"})
    labels = True
    question = "Point to {instruction}."
    questions = MappingProxyType({"points": "Point to all occurrences of {instruction}."})
    refusal = "This isn't in the image."
    patterns = forms(
        point=_ONE,
        points=rf'(?:{_ONE}\s*+)++|<points(?: x[0-9]++="[0-9.]++" y[0-9]++="[0-9.]++")++{_WORDS}</points>',
        absent=r"This isn't in the image\.",
    )

    def _render_one(self, region: Box | Point, sizes: Sequence[ImageSize]) -> str:
        x, y = self.numbers(region, sizes)
        label = html.escape(region.label or "")
        return f'<point x="{x}" y="{y}" alt="{label}">{label}</point>'

    def _render_several(self, regions: Sequence[Box | Point], sizes: Sequence[ImageSize]) -> str:
        labels = {region.label for region in regions}
        if len(labels) > 1 or len(regions) == 1:
            return " ".join(self._render_one(region, sizes) for region in regions)
        pairs = [self.numbers(region, sizes) for region in regions]
        inside = " ".join(f'x{rank}="{x}" y{rank}="{y}"' for rank, (x, y) in enumerate(pairs, start=1))
        label = html.escape(labels.pop() or "")
        return f'<points {inside} alt="{label}">{label}</points>'

    def _read(self, text: str, original: str, sizes: Sequence[ImageSize], answer_kind: str | None) -> Reading:
        return Reading(xml_points(text, original, self._found, sizes))


DIALECTS.register("molmo")(Molmo("molmo"))
