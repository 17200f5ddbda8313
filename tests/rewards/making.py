"""Samples, answers and batches for the tests of rewards."""

from grounding.answer import Answer, ImageSize, Status
from grounding.completion import render_completion
from grounding.dialects import get_dialect
from grounding.sample import ImageRef, Sample
from grounding.targets import Box, Point, Span

TARGET = Box(0.2, 0.3, 0.6, 0.5)  # 0.4 wide, 0.2 high, center (0.4, 0.4)


def a_sample(target=TARGET, *, width=200, height=100, images=1, source="made", **fields):
    refs = tuple(ImageRef(f"images/{i}.png", width, height) for i in range(images))
    return Sample(fields.pop("id", "one"), refs, "the blue button", target, source, "CC0-1.0", **fields)


def boxes(*corners, image=0):
    return Answer(Status.OK, boxes=tuple(Box(*c, image=image) for c in corners), strict=True)


def clicks(*places, image=0):
    return Answer(Status.OK, points=tuple(Point(*p, image=image) for p in places), strict=True)


def spans(*ends):
    return Answer(Status.OK, spans=tuple(Span(*e) for e in ends), strict=True)


def says(text):
    return Answer(Status.OK, text=text, strict=True)


ABSENT = Answer(Status.OK, absent=True, strict=True)
UNREADABLE = [Answer(status) for status in (Status.NO_ANSWER, Status.MALFORMED, Status.OUT_OF_RANGE)]


def columns(samples, sizes=None, **more):
    """TRL's columns for a batch of samples."""
    shown = [tuple(ImageSize(s.width, s.height) for s in (sizes or sample.images)) for sample in samples]
    return {"sample": list(samples), "sizes": shown, **more}


def call(function, completions, samples, **more):
    """Call a built reward function the way TRL does."""
    given = {**columns(samples), **more}
    ids = given.pop("completion_ids", [[0]] * len(completions))
    return function(prompts=["?"] * len(completions), completions=completions, completion_ids=ids, **given)


def write(target, dialect="qwen3_vl", *, thought="there it is", grammar="think", width=200, height=100):
    """A completion a model of that family would give."""
    return render_completion(get_dialect(dialect).render(target, [ImageSize(width, height)]), thought, grammar)
