"""The forms of a thought: how a template writes it, how a teacher is asked for it, what it must contain.

free       words only: what is asked, what sets it apart, where it is
grounded   every step names a place, the last one the answer (ViGoRL, arXiv 2505.23678)
region     first the region to look at, then the target inside it (Argus, Visual-CoT)
fast_slow  one line where the target is easy to see, else summary, focus, point (FOCUS, arXiv 2503.06470)
knowledge  what is known of the thing asked for, then what is seen that fits (DeepPerception, arXiv 2503.12797)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from grounding.sample import Sample, regions_of
from grounding.targets import Absent, Box, Point, Polygon, Span
from grounding.wording import request, write_place

EASY_AREA = 0.02  # share of the image from which a target is easy to see
MARGIN = 0.15  # what a region of interest adds on each side


Regions = Sequence[Box | Point]


@dataclass(frozen=True, slots=True)
class Form:
    """One form of thought.

    Attributes:
        write: writes it about the regions of a sample's target, of which there is at least one.
        request: what a teacher is told about the form.
        places: how many places it must name at least; its last must meet the target when it names any.
    """

    write: Callable[[Sample, Regions, random.Random], str]
    request: str
    places: int

    def template(self, sample: Sample, dice: random.Random) -> str:
        """The thought that a template writes from the sample alone."""
        regions = _regions(sample)
        return self.write(sample, regions, dice) if regions else _without_region(sample)


def _regions(sample: Sample) -> list[Box | Point]:
    """What the thought leads to, as boxes or points; none for absent targets and spans."""
    found: list[Box | Point] = []
    for region in regions_of(sample.target):
        if isinstance(region, Polygon):
            found.append(region.bounds)
        elif not isinstance(region, Span):
            found.append(region)
    return found


def _center(region: Box | Point) -> Point:
    return region.center if isinstance(region, Box) else region


def position_words(region: Box | Point) -> str:
    """Where it is, in words: "in the upper left of the image", "in the upper part of the image"."""
    point = _center(region)
    row = "upper" if point.y < 1 / 3 else "lower" if point.y > 2 / 3 else ""
    column = "left" if point.x < 1 / 3 else "right" if point.x > 2 / 3 else ""
    if not row and not column:
        return "near the middle of the image"
    return f"in the {row} {column} of the image" if row and column else f"in the {row or column} part of the image"


def around(*regions: Box | Point) -> Box:
    """The region of interest that a look around regions of one image would give: a margin around all of them."""
    corners = [region.xyxy if isinstance(region, Box) else (region.x, region.y) * 2 for region in regions]
    x1, y1 = (min(corner[axis] for corner in corners) for axis in (0, 1))
    x2, y2 = (max(corner[axis] for corner in corners) for axis in (2, 3))
    dx, dy = MARGIN + (x2 - x1) / 2, MARGIN + (y2 - y1) / 2
    return Box(max(0.0, x1 - dx), max(0.0, y1 - dy), min(1.0, x2 + dx), min(1.0, y2 + dy), regions[0].image)


def _interest(regions: Regions) -> list[Box]:
    """One region of interest for each image that has a region."""
    images = dict.fromkeys(region.image for region in regions)
    return [around(*(region for region in regions if region.image == image)) for image in images]


def _listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _places(regions: Iterable[Box | Point]) -> str:
    return _listed(write_place(region) for region in regions)


def _positions(regions: Regions) -> str:
    return _listed(dict.fromkeys(position_words(region) for region in regions))


def _without_region(sample: Sample) -> str:
    asked = request(sample.words)
    if isinstance(sample.target, Absent):
        whole = "the whole image" if len(sample.images) == 1 else "all images"
        return f"{asked} I look over {whole} and find nothing that fits, so it is not there."
    if isinstance(sample.target, Span):
        start, end = sample.target.start, sample.target.end
        return f"{asked} I follow the frames: it starts at {start:.1f} s and ends at {end:.1f} s."
    return f"{asked} I read the answer off the image."


_COMPARING = ("I compare it with what the image shows", "I go through what the image shows", "I look over the image")


def _free(sample: Sample, regions: Regions, dice: random.Random) -> str:
    found = "it is" if len(regions) == 1 else f"there are {len(regions)},"
    return f"{request(sample.words)} {dice.choice(_COMPARING)}: {found} {_positions(regions)}."


def _grounded(sample: Sample, regions: Regions, dice: random.Random) -> str:
    look = f"I look {position_words(regions[0])}, around {write_place(_center(around(regions[0])))}."
    found = "What fits is" if len(regions) == 1 else f"The {len(regions)} that fit are"
    return f"{request(sample.words)} {look} {found} at {_places(regions)}."


def _region(sample: Sample, regions: Regions, dice: random.Random) -> str:
    wide = _interest(regions)
    look = f"I first look at the region{'s' if len(wide) > 1 else ''} {_places(wide)}."
    found = "the target is" if len(regions) == 1 else f"the {len(regions)} targets are"
    return f"{request(sample.words)} {look} There, {found} at {_places(regions)}."


def _fast_slow(sample: Sample, regions: Regions, dice: random.Random) -> str:
    if len(regions) == 1 and isinstance(regions[0], Box) and regions[0].area >= EASY_AREA:
        return f"Fast: {request(sample.words)} It is easy to see at {_places(regions)}."
    return (
        f"Slow. Summary: {request(sample.words)} Focus: {_positions(regions)}, in {_places(_interest(regions))}."
        f" Point: {_places(regions)}."
    )


def _knowledge(sample: Sample, regions: Regions, dice: random.Random) -> str:
    found = "The one that fits is" if len(regions) == 1 else f"The {len(regions)} that fit are"
    return (
        f"{request(sample.words)} I recall what tells it from things that look alike, and compare each candidate with"
        f" that. {found} {_positions(regions)}, at {_places(regions)}."
    )


_CANONICAL = "Write places as [x, y] or [x1, y1, x2, y2] with three decimals, as fractions of the image's sides."

FORMS: dict[str, Form] = {
    "free": Form(_free, "Reason in words only, without any coordinates.", 0),
    "grounded": Form(
        _grounded,
        f"Reason in short steps; each names the place it looks at, the last the target. {_CANONICAL}",
        2,
    ),
    "region": Form(_region, f"First name the region worth looking at, then the target inside it. {_CANONICAL}", 2),
    "fast_slow": Form(
        _fast_slow,
        "If the target is easy to see, answer 'Fast:' and one sentence with its place; otherwise answer 'Slow.' and"
        f" then 'Summary:', 'Focus:' with the region, 'Point:' with the place. {_CANONICAL}",
        1,
    ),
    "knowledge": Form(
        _knowledge,
        "First recall the knowledge that tells the thing asked for from similar ones, then compare each candidate in"
        f" the image with it, then name the one that fits and its place. {_CANONICAL}",
        1,
    ),
}
