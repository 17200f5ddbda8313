"""Every dialect, every kind it can express: parse(render(target)) is the target within the declared tolerance."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grounding.answer import Answer, ImageSize, Status
from grounding.completion import GRAMMARS, Grammar, render_completion
from grounding.dialects import DIALECTS, Dialect, get_dialect
from grounding.errors import UsageError
from grounding.targets import (
    TARGET_KINDS,
    Absent,
    Box,
    Boxes,
    Point,
    Points,
    Polygon,
    Span,
    Target,
    TextBox,
    Unlabeled,
    kind_of,
)
from grounding.wording import read_places, write_place

ALL = DIALECTS.names()
SIDE = st.integers(1, 5000)
UNIT = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 0.9995, 1 / 32, 1 / 3]))
LABEL = st.one_of(st.none(), st.text("abc xyzäé漢５,.'", min_size=1, max_size=8).map(str.strip).filter(bool))
SIZES = st.builds(ImageSize, SIDE, SIDE, SIDE, SIDE)


@st.composite
def a_box(draw: st.DrawFn, image: int = 0, label: st.SearchStrategy[str | None] = LABEL) -> Box:
    x1, x2 = sorted((draw(UNIT), draw(UNIT)))
    y1, y2 = sorted((draw(UNIT), draw(UNIT)))
    return Box(x1, y1, x2, y2, image, draw(label))


@st.composite
def a_point(draw: st.DrawFn, image: int = 0, label: st.SearchStrategy[str | None] = LABEL) -> Point:
    return Point(draw(UNIT), draw(UNIT), image, draw(label))


SECONDS = st.floats(0, 36_000)
TARGETS: dict[str, st.SearchStrategy[Target]] = {
    "box": a_box(),
    "point": a_point(),
    "boxes": st.lists(a_box(), min_size=1, max_size=4).map(lambda items: Boxes(tuple(items))),
    "points": st.lists(a_point(), min_size=1, max_size=4).map(lambda items: Points(tuple(items))),
    "span": st.tuples(SECONDS, SECONDS).map(lambda pair: Span(min(pair), max(pair))),
    "text_box": st.builds(
        TextBox,
        st.text("abc 42äé.", min_size=1).map(str.strip).filter(bool),
        st.lists(a_box(), min_size=1).map(tuple),
    ),
    "absent": st.just(Absent()),
}
ALIASES = ("mai_ui", "gui_owl", "holo", "fovea")  # of qwen3_vl
FAMILIES = [name for name in ALL if name not in ALIASES]
EXPRESSIBLE = [(name, kind) for name in FAMILIES for kind in TARGETS if kind in get_dialect(name).kinds]


def coordinates(region: Box | Point) -> tuple[float, ...]:
    return region.xyxy if isinstance(region, Box) else (region.x, region.y)


def assert_near(dialect: Dialect, region: Box | Point, read: Box | Point, size: ImageSize) -> None:
    assert type(read) is type(region)
    assert read.image == region.image
    tolerance = dialect.tolerance(size)
    for axis, (expected, got) in enumerate(zip(coordinates(region), coordinates(read), strict=True)):
        assert abs(expected - got) <= tolerance[axis % 2] + 1e-12


def assert_says(dialect: Dialect, answer: Answer, target: Target, sizes: tuple[ImageSize, ...]) -> None:
    assert answer.status is Status.OK
    assert answer.absent is isinstance(target, Absent)
    if isinstance(target, Span):
        (span,) = answer.spans
        assert span.start == pytest.approx(target.start, abs=0.005 + 1e-9)
        assert span.end == pytest.approx(target.end, abs=0.005 + 1e-9)
        return
    if isinstance(target, TextBox):
        assert answer.text == target.text
    regions = {Boxes: "items", Points: "items", TextBox: "boxes"}.get(type(target))
    wanted = getattr(target, regions) if regions else ((target,) if isinstance(target, (Box, Point)) else ())
    read = answer.points if kind_of(target).startswith("point") else answer.boxes
    assert len(read) == len(wanted)
    for region, got in zip(wanted, read, strict=True):
        assert_near(dialect, region, got, sizes[region.image])
        if dialect.labels and dialect.name != "florence2":
            assert got.label == region.label


@pytest.mark.parametrize(("name", "kind"), EXPRESSIBLE)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_round_trip(name: str, kind: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    target, size = data.draw(TARGETS[kind]), data.draw(SIZES)
    grammar = data.draw(st.sampled_from(GRAMMARS))
    answer_text = dialect.render(target, (size,))
    completion = render_completion(answer_text, "Somewhere [1, 2, 3, 4] or (5, 6).", grammar)
    answer = dialect.parse(completion, (size,), grammar=grammar, answer_kind=kind)
    assert_says(dialect, answer, target, (size,))
    assert answer.strict
    assert answer.thought == (None if grammar == "bare" else "Somewhere [1, 2, 3, 4] or (5, 6).")
    other: Grammar = "bare" if grammar == "think" else "think"
    assert not dialect.parse(completion, (size,), grammar=other, answer_kind=kind).strict


@pytest.mark.parametrize(("name", "kind"), EXPRESSIBLE)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_where_holds_the_coordinates(name: str, kind: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    target, size = data.draw(TARGETS[kind]), data.draw(SIZES)
    before = data.draw(st.sampled_from(["<think>a [0, 1]</think>\n", "<think>１２</think><answer>", "\n ", ""]))
    completion = before + dialect.render(target, (size,))
    answer = dialect.parse(completion, (size,), answer_kind=kind)
    assert answer.char_span is not None
    start, end = answer.char_span
    assert len(before) <= start < end <= len(completion)
    read_again = dialect.parse(
        completion[:start] + "\n" * (end - start) + completion[end:], (size,), answer_kind=kind
    )
    assert not (read_again.boxes or read_again.points or read_again.spans)  # every coordinate stood in that range


@pytest.mark.parametrize("name", ALIASES)
@settings(max_examples=10, deadline=None)
@given(target=st.one_of(*TARGETS.values()), size=SIZES)
def test_descendants_write_as_their_ancestor_does(name: str, target: Target, size: ImageSize) -> None:
    text = get_dialect("qwen3_vl").render(target, (size,))
    assert get_dialect(name).render(target, (size,)) == text
    assert get_dialect(name).parse(text, (size,)) == get_dialect("qwen3_vl").parse(text, (size,))


@pytest.mark.parametrize("name", [name for name in FAMILIES if get_dialect(name).multi_image])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_several_images(name: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    sizes = tuple(data.draw(st.lists(SIZES, min_size=2, max_size=4)))
    images = st.integers(0, len(sizes) - 1)
    items = data.draw(st.lists(images.flatmap(a_box), min_size=1, max_size=4).map(tuple))
    for target in (items[0], Boxes(items)):
        answer = dialect.parse(
            dialect.render(target, sizes),
            sizes,
            grammar="bare",
            answer_kind="box" if isinstance(target, Box) else "boxes",
        )
        assert_says(dialect, answer, target, sizes)
        assert answer.strict


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_said_is_refused(name: str) -> None:
    dialect = get_dialect(name)
    size = (ImageSize(100, 100),)
    some: dict[str, Target] = {
        "box": Box(0, 0, 1, 1),
        "point": Point(0, 0),
        "boxes": Boxes((Box(0, 0, 1, 1),)),
        "points": Points((Point(0, 0),)),
        "polygon": Polygon(((0, 0), (1, 0), (1, 1))),
        "span": Span(0, 1),
        "text_box": TextBox("a", (Box(0, 0, 1, 1),)),
        "absent": Absent(),
    }
    assert set(some) == set(TARGET_KINDS) - {"unlabeled"}
    with pytest.raises(UsageError, match="without a label"):
        dialect.render(Unlabeled(), size)
    for kind, target in some.items():
        if kind in dialect.kinds:
            assert dialect.render(target, size)
        else:
            with pytest.raises(UsageError, match=f"dialect '{name}' cannot express a {kind}; it has "):
                dialect.render(target, size)


@pytest.mark.parametrize("name", ALL)
def test_regions_in_images_that_are_not_there(name: str) -> None:
    dialect = get_dialect(name)
    region: Box | Point = Box(0, 0, 1, 1, image=1) if "box" in dialect.kinds else Point(0, 0, image=1)
    with pytest.raises(UsageError, match="image 1, but 1 image sizes"):
        dialect.render(region, (ImageSize(9, 9),))
    if not dialect.multi_image:
        with pytest.raises(UsageError, match="no words for the second of several images"):
            dialect.render(region, (ImageSize(9, 9), ImageSize(9, 9)))


@pytest.mark.parametrize("name", [name for name in FAMILIES if get_dialect(name).thinks])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_thoughts_are_written_in_the_dialects_numbers(name: str, data: st.DataObject) -> None:
    dialect = get_dialect(name)
    sizes = tuple(data.draw(st.lists(SIZES, min_size=2, max_size=2)))
    no_label = st.none()
    places = data.draw(
        st.lists(st.integers(0, 1).flatmap(lambda i: st.one_of(a_box(i, no_label), a_point(i, no_label))), max_size=3)
    )
    thought = " then ".join(f"look at {write_place(place)}" for place in places)
    written = dialect.render_thought(thought, sizes)
    read = dialect.read_thought(written, sizes)
    assert len(read) == len(places)
    for rounded, got in zip(read_places(thought), read, strict=True):  # after the three decimals of the convention
        assert_near(dialect, rounded, got, sizes[rounded.image])
    assert dialect.render_thought("no place [1] (0.5, 0.5)", sizes) == "no place [1] (0.5, 0.5)"


@pytest.mark.parametrize("name", [name for name in ALL if not get_dialect(name).thinks])
def test_families_of_task_words_have_no_thoughts(name: str) -> None:
    dialect = get_dialect(name)
    with pytest.raises(UsageError, match="bare"):
        dialect.prompt("the cup", "box", "think")
    with pytest.raises(UsageError, match="bare"):
        dialect.render_thought("at [0.100, 0.200]", (ImageSize(9, 9),))
    assert dialect.read_thought("[1, 2]", (ImageSize(9, 9),)) == ()
    assert "the cup" in dialect.prompt("the cup", "box", "bare")


@pytest.mark.parametrize("name", [name for name in ALL if get_dialect(name).thinks and name != "fovea"])
def test_prompts_name_the_thing_and_the_grammar(name: str) -> None:
    dialect = get_dialect(name)
    for kind in dialect.kinds - {"absent"}:
        bare, think, tags = (dialect.prompt("the red cup", kind, grammar) for grammar in GRAMMARS)
        assert "the red cup" in bare
        assert "<think>" not in bare
        assert think.startswith(bare)
        assert "</think>" in think
        assert "<answer>" not in think
        assert "</answer>" in tags
