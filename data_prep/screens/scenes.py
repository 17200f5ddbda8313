"""Scenes of shapes and widgets: composed from a random stream, asked about, drawn with Pillow. No browser.

What is asked for is decided by the difficulty:

    1  one element
    2  two to four shapes, named by color and shape; distractors share one of the two
    3  three to six shapes and widgets, smaller, some inside a window
    4  as 3, but the description fits two elements and a relation tells which ("... left of the window")
    5  as 3 and 4 mixed, and in one of six screens what is asked for is not there
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 90, 220),
    "yellow": (240, 200, 30),
    "purple": (150, 60, 190),
    "orange": (245, 130, 30),
    "cyan": (40, 190, 210),
    "pink": (245, 130, 180),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
WIDGETS = ("button", "field", "icon", "checkbox", "slider")
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("green", "circle"),
        ("blue", "triangle"),
        ("yellow", "cross"),
        ("purple", "square"),
        ("orange", "diamond"),
        ("cyan", "button"),
        ("pink", "icon"),
    }
)
GROUNDS = {"light": (250, 250, 252), "dark": (38, 42, 54)}
_BODIES = {"light": (255, 255, 255), "dark": (58, 63, 78)}  # of windows on them
RELATIONS = ("left of", "right of", "above", "below")
DIFFICULTIES = (1, 2, 3, 4, 5)
SUPERSAMPLING = 3
BAR = 7  # height of a window's title bar, in pixels of a screen of 96


@dataclass(frozen=True, slots=True)
class Element:
    """One thing on a screen.

    Attributes:
        kind: of SHAPES or WIDGETS, or "window", or "panel" (`groups.py`).
        color: of COLORS.
        box: x1, y1, x2, y2 in pixels of the screen, exactly what is drawn.
        letter: the label of a button, empty for everything else.
    """

    kind: str
    color: str
    box: tuple[float, float, float, float]
    letter: str = ""

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """What is on a screen of `size` x `size` pixels; later elements are drawn over earlier ones."""

    size: int
    ground: str
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked about a scene: a description, the element meant, and the element it is described by.

    Attributes:
        text: the description, for instance "the red circle left of the blue window".
        target: None when nothing on the screen fits.
        anchor: the second element of a relation.
        relation: of RELATIONS.
    """

    text: str
    target: Element | None
    anchor: Element | None = None
    relation: str | None = None


def compose(rng: random.Random, difficulty: int, size: int, held_out_share: float) -> tuple[Scene, Query]:
    """A scene and a question about it that has exactly one right answer, or none when it asks for what is absent."""
    while True:
        ground = rng.choice(tuple(GROUNDS))
        if difficulty == 5:
            level = rng.choice((3, 4))
            absent = rng.random() < 1 / 6
        else:
            level, absent = difficulty, False
        wants_held_out = rng.random() < held_out_share
        names = _names(rng, level, wants_held_out, held_out_share > 0)
        elements = place(rng, names, level, size)
        if elements is None:
            continue
        scene = Scene(size, ground, tuple(elements))
        query = _ask(rng, scene, names[0], level, absent)
        if query is not None:
            return scene, query


def _pair(rng: random.Random, kinds: tuple[str, ...], held_out: bool | None) -> tuple[str, str]:
    """A (color, kind); `held_out` True or False restricts it, None does not."""
    while True:
        pair = rng.choice(tuple(COLORS)), rng.choice(kinds)
        if held_out is None or (pair in HELD_OUT) == held_out:
            return pair


def _names(rng: random.Random, level: int, wants_held_out: bool, may_hold_out: bool) -> list[tuple[str, str]]:
    """(color, kind) of the elements to place, the target first."""
    kinds = SHAPES if level <= 2 else SHAPES + WIDGETS
    others = None if may_hold_out else False
    target = _pair(rng, kinds, wants_held_out)
    count = 1 if level == 1 else rng.randint(2, 4) if level == 2 else rng.randint(3, 6)
    names = [target]
    if level == 4:  # a twin that only the relation tells apart
        names.append(target)
    while len(names) < count:
        color, kind = _pair(rng, kinds, others)
        share = rng.random()
        if share < 0.35:
            color = target[0]
        elif share < 0.7:
            kind = target[1]
        if (color, kind) == target or (not may_hold_out and (color, kind) in HELD_OUT):
            continue
        names.append((color, kind))
    return names


def place(rng: random.Random, names: list[tuple[str, str]], level: int, size: int) -> list[Element] | None:
    """Elements at random places that do not touch, sized for a difficulty; None when the draw does not fit."""
    unit = size / 96
    elements: list[Element] = []
    taken: list[tuple[float, ...]] = []
    if level >= 3 and rng.random() < 0.6:
        width, height = rng.uniform(56, 80) * unit, rng.uniform(52, 76) * unit
        x, y = rng.uniform(2, 94 * unit - width), rng.uniform(2, 94 * unit - height)
        box = (round(x), round(y), round(x + width), round(y + height))
        elements.append(Element("window", rng.choice(tuple(COLORS)), box))
        # Nothing may hide the title bar, which is all that tells the window's color.
        taken.append((box[0], box[1], box[2], box[1] + BAR * unit))
    small, large = ((20, 36), (20, 36), (13, 24), (13, 24))[level - 1]
    gap = 3 * unit
    placed: list[Element] = []
    for color, kind in names:
        for _ in range(30):
            side = rng.uniform(small, large) * unit
            width, height = side * _ASPECT.get(kind, 1.0), side
            if kind in _FLAT:
                height = side * _FLAT[kind]
            x, y = rng.uniform(2, size - 2 - width), rng.uniform(2, size - 2 - height)
            box = (round(x), round(y), round(x + width), round(y + height))
            if box[2] > size - 1 or box[3] > size - 1:
                continue
            if all(_apart(box, other, gap) for other in taken):
                letter = rng.choice("ABCDEFGHKLMNPRSTUVXYZ") if kind == "button" else ""
                placed.append(Element(kind, color, box, letter))
                taken.append(box)
                break
        else:
            return None
    return elements + placed


_ASPECT = {"button": 1.5, "field": 2.0, "slider": 2.0}
_FLAT = {"button": 0.8, "field": 0.7, "slider": 0.6}


def _apart(a: tuple[float, ...], b: tuple[float, ...], gap: float) -> bool:
    return a[0] > b[2] + gap or b[0] > a[2] + gap or a[1] > b[3] + gap or b[1] > a[3] + gap


def _ask(rng: random.Random, scene: Scene, name: tuple[str, str], level: int, absent: bool) -> Query | None:
    """A question about the scene whose answer is unique; None when this scene offers none."""
    if absent:
        seen = {(e.color, e.kind) for e in scene.elements}
        missing = [(c, k) for c in COLORS for k in SHAPES + WIDGETS if (c, k) not in seen and (c, k) not in HELD_OUT]
        color, kind = rng.choice(missing)
        return Query(f"the {color} {kind}", None)
    twins = [e for e in scene.elements if (e.color, e.kind) == name]
    if level < 4:
        return Query(f"the {twins[0].name}", twins[0])
    anchors = [e for e in scene.elements if e not in twins and count_named(scene, e.name) == 1]
    options = []
    for anchor in anchors:
        for relation in RELATIONS:
            fitting = [e for e in twins if holds(e, relation, anchor)]
            clear = all(holds(e, _OPPOSITE[relation], anchor) for e in twins if e not in fitting)
            if len(fitting) == 1 and clear:
                options.append((fitting[0], relation, anchor))
    if not options:
        return None
    target, relation, anchor = rng.choice(options)
    return Query(f"the {target.name} {relation} the {anchor.name}", target, anchor, relation)


_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def count_named(scene: Scene, name: str) -> int:
    return sum(element.name == name for element in scene.elements)


def holds(element: Element, relation: str, anchor: Element) -> bool:
    """Whether `element` lies clearly (an eighth of the anchor's side beyond its center) on that side of `anchor`."""
    (x, y), (ax, ay) = element.center, anchor.center
    margin_x, margin_y = (anchor.box[2] - anchor.box[0]) / 8, (anchor.box[3] - anchor.box[1]) / 8
    return {
        "left of": x < ax - margin_x,
        "right of": x > ax + margin_x,
        "above": y < ay - margin_y,
        "below": y > ay + margin_y,
    }[relation]


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image of `scene.size` x `scene.size` pixels."""
    scale = SUPERSAMPLING
    image = Image.new("RGB", (scene.size * scale, scene.size * scale), GROUNDS[scene.ground])
    pen = ImageDraw.Draw(image)
    for element in scene.elements:
        box = tuple(value * scale for value in element.box)
        paint = _PAINTERS.get(element.kind, _polygon)
        paint(pen, element, (box[0], box[1], box[2] - 1, box[3] - 1), scene)
    return image.reduce(scale)


def _polygon(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, y2 = box
    points = [(x1 + u * (x2 - x1), y1 + v * (y2 - y1)) for u, v in _OUTLINES[element.kind]]
    pen.polygon(points, fill=COLORS[element.color])


_OUTLINES = {
    "triangle": ((0.5, 0), (1, 1), (0, 1)),
    "diamond": ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
    "star": (
        (0.5, 0), (0.62, 0.36), (1, 0.38), (0.7, 0.6), (0.81, 1), (0.5, 0.76),
        (0.19, 1), (0.3, 0.6), (0, 0.38), (0.38, 0.36),
    ),
    "cross": (
        (0.34, 0), (0.66, 0), (0.66, 0.34), (1, 0.34), (1, 0.66), (0.66, 0.66),
        (0.66, 1), (0.34, 1), (0.34, 0.66), (0, 0.66), (0, 0.34), (0.34, 0.34),
    ),
}  # fmt: skip


def _circle(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    pen.ellipse(box, fill=COLORS[element.color])


def _square(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    pen.rectangle(box, fill=COLORS[element.color])


def _window(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, _ = box
    bar = BAR * SUPERSAMPLING * scene.size / 96
    pen.rectangle(box, fill=_BODIES[scene.ground], outline=(130, 134, 145), width=SUPERSAMPLING)
    pen.rectangle((x1, y1, x2, y1 + bar), fill=COLORS[element.color])


def _panel(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    """A window without a title bar: its frame, a seventh of its side, has the color."""
    side = box[2] - box[0]
    color = COLORS[element.color]
    pen.rounded_rectangle(
        box, radius=side / 6, fill=_BODIES[scene.ground], outline=color, width=max(1, round(side / 7))
    )


def _button(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, y2 = box
    pen.rounded_rectangle(box, radius=(y2 - y1) / 3, fill=COLORS[element.color], outline=(40, 40, 50), width=2)
    pen.text(
        ((x1 + x2) / 2, (y1 + y2) / 2), element.letter, fill="white", font=_font(int((y2 - y1) * 0.8)), anchor="mm"
    )


def _field(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, y2 = box
    pen.rectangle(box, fill="white", outline=COLORS[element.color], width=2 * SUPERSAMPLING)
    middle = (y1 + y2) / 2
    pen.line((x1 + (x2 - x1) * 0.15, middle, x1 + (x2 - x1) * 0.6, middle), fill=(150, 150, 160), width=SUPERSAMPLING)


def _icon(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    pen.rounded_rectangle(box, radius=width / 5, fill=COLORS[element.color])
    pen.ellipse((x1 + width * 0.28, y1 + height * 0.28, x2 - width * 0.28, y2 - height * 0.28), fill="white")


def _checkbox(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    color = COLORS[element.color]
    pen.rectangle(box, fill="white", outline=color, width=SUPERSAMPLING)
    tick = [(x1 + u * w, y1 + v * h) for u, v in ((0.2, 0.5), (0.42, 0.75), (0.8, 0.25))]
    pen.line(tick, fill=color, width=2 * SUPERSAMPLING, joint="curve")


def _slider(pen: ImageDraw.ImageDraw, element: Element, box: tuple, scene: Scene) -> None:
    x1, y1, x2, y2 = box
    middle, radius = (y1 + y2) / 2, (y2 - y1) / 2
    pen.line((x1, middle, x2, middle), fill=(150, 150, 160), width=2 * SUPERSAMPLING)
    knob = x1 + (x2 - x1 - 2 * radius) * 0.6
    pen.ellipse((knob, y1, knob + 2 * radius, y2), fill=COLORS[element.color])


_PAINTERS = {
    "circle": _circle,
    "square": _square,
    "window": _window,
    "panel": _panel,
    "button": _button,
    "field": _field,
    "icon": _icon,
    "checkbox": _checkbox,
    "slider": _slider,
}


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
