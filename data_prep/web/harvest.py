"""What can be seen and used on a web page as it is drawn: boxes, roles, accessible names, looks.

Roles and names are Chromium's own (its accessibility tree), not guessed from tags. Visibility is decided by hitting:
an element counts when the points of its box belong to it, so that what is covered, clipped or off the screen is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

MARK = "data-fovea-element"
MIN_SIDE = 6  # CSS pixels; smaller things are hairlines and tracking pixels
MIN_HITS = 7  # of 9 points that must belong to an element
ROLES = {
    "button": "button",
    "link": "link",
    "textbox": "field",
    "searchbox": "search field",
    "spinbutton": "number field",
    "checkbox": "checkbox",
    "radio": "radio button",
    "switch": "switch",
    "combobox": "drop-down list",
    "listbox": "list",
    "option": "option",
    "slider": "slider",
    "tab": "tab",
    "menuitem": "menu entry",
    "menuitemcheckbox": "menu entry",
    "menuitemradio": "menu entry",
    "treeitem": "tree entry",
    "DisclosureTriangle": "section heading",
    "heading": "heading",
    "image": "picture",
    "img": "picture",
}
"""Accessibility roles that are harvested, and what a person calls them."""

_GLYPHS = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")  # private use: the pictures of icon fonts

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class WebElement:
    """Something on the screen.

    Attributes:
        box: x1, y1, x2, y2 in CSS pixels of the viewport.
        role: Chromium's accessibility role, a key of `ROLES`.
        name: its accessible name; "" when it has none.
        text: the words drawn in it.
        fill: its own background (r, g, b) in 0..255, None when it has none.
        ink: the color of its text.
        picture: whether it shows an icon or image.
    """

    box: tuple[float, float, float, float]
    role: str
    name: str
    text: str
    fill: tuple[int, int, int] | None
    ink: tuple[int, int, int]
    picture: bool

    @property
    def kind(self) -> str:
        return ROLES[self.role]

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class HarvestedScreen:
    """A harvested screen.

    Attributes:
        elements: what can be seen and used, in document order.
        others: what can be seen in part: cut by the screen's edge, or broken over two lines.
        dropped: how many candidates were left out, by reason.
        height: of the whole document, CSS pixels.
    """

    elements: tuple[WebElement, ...]
    others: tuple[WebElement, ...]
    dropped: dict[str, int]
    height: int


def words(text: str) -> str:
    """A text in one line, without the glyphs of icon fonts, which nobody can read out."""
    return " ".join(_GLYPHS.sub(" ", text).split())


def look(page: Page) -> HarvestedScreen:
    """Harvest the page as it is scrolled now.

    Raises:
        playwright.sync_api.Error: the page went away meanwhile.
    """
    result: dict[str, Any] = page.evaluate(SCRIPT, [MARK, MIN_SIDE, MIN_HITS])
    dropped = dict(result["dropped"])
    names = _accessible(page)
    elements: list[WebElement] = []
    others: list[WebElement] = []
    boxes: set[tuple[float, ...]] = set()
    for index, row in enumerate(result["found"]):
        role, name = names.get(str(index), ("", ""))
        box = tuple(row["box"])
        if role not in ROLES or box in boxes:
            why = "same box" if role in ROLES else "no role"
            dropped[why] = dropped.get(why, 0) + 1
            continue
        boxes.add(box)
        fill = None if row["fill"] is None else tuple(round(v) for v in row["fill"])
        ink = tuple(round(v) for v in row["ink"])
        text = words(row["text"])
        element = WebElement(box, role, name, text, fill, ink, row["picture"] or text != row["text"])  # type: ignore[arg-type]
        (elements if row["whole"] else others).append(element)
    return HarvestedScreen(tuple(elements), tuple(others), dropped, int(result["height"]))


def _accessible(page: Page) -> dict[str, tuple[str, str]]:
    """(role, name) of every marked element, from Chromium's accessibility tree."""
    session = page.context.new_cdp_session(page)
    try:
        session.send("DOM.enable")
        marks: dict[int, str] = {}
        for node in session.send("DOM.getFlattenedDocument", {"depth": -1, "pierce": True})["nodes"]:
            pairs = node.get("attributes", [])
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                if key == MARK:
                    marks[node["backendNodeId"]] = value
        found: dict[str, tuple[str, str]] = {}
        for node in session.send("Accessibility.getFullAXTree")["nodes"]:
            mark = marks.get(node.get("backendDOMNodeId", -1))
            if mark is not None and not node.get("ignored"):
                name = words(str(node.get("name", {}).get("value", "")))
                found[mark] = (str(node.get("role", {}).get("value", "")), name)
        return found
    finally:
        session.detach()
