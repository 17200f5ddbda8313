"""What can be seen and used on a web page as it is drawn: boxes, roles, accessible names, looks.

Roles and names are Chromium's own (its accessibility tree), not guessed from tags. Visibility is decided by hitting:
an element counts when the points of its box belong to it, so that what is covered, clipped or off the screen is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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

# Marks the candidates, looks at each by hitting nine points of its box, and says why the others are left out.
SCRIPT = """
([mark, minSide, minHits]) => {
  const WANTED = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [role], [onclick], ' +
    '[tabindex]:not([tabindex="-1"]), [contenteditable=true], img, h1, h2, h3';
  const WORDLESS = ['password', 'checkbox', 'radio', 'range', 'color', 'file', 'image'];
  const W = innerWidth, H = innerHeight;
  const all = [];
  const collect = root => {
    for (const e of root.querySelectorAll('*')) {
      if (e.matches(WANTED)) all.push(e);
      if (e.shadowRoot) collect(e.shadowRoot);
    }
  };
  collect(document);
  const deepest = (x, y) => {
    let e = document.elementFromPoint(x, y);
    while (e && e.shadowRoot) {
      const inner = e.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === e) break;
      e = inner;
    }
    return e;
  };
  const up = e => e.parentNode instanceof ShadowRoot ? e.parentNode.host : e.parentElement;
  const belongs = (hit, e) => { for (let a = hit; a; a = up(a)) if (a === e) return true; return false; };
  const labeled = (hit, e) => e.labels && [...e.labels].some(l => belongs(hit, l));
  const wanted = new Set(all);
  const owner = hit => { for (let a = hit; a; a = up(a)) if (wanted.has(a)) return a; return null; };
  const seen = e => {
    if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) return false;
    let o = 1;
    for (let a = e; a; a = up(a)) o *= parseFloat(getComputedStyle(a).opacity);
    return o >= 0.2;
  };
  const own = e => {
    const c = getComputedStyle(e).backgroundColor.match(/[0-9.]+/g);
    return c && (c.length < 4 || parseFloat(c[3]) > 0.5) ? c.slice(0, 3).map(Number) : null;
  };
  // Words for screen readers alone are clipped to a pixel or lie elsewhere: nobody sees them.
  const unseen = (text, e, box) => {
    const range = document.createRange();
    range.selectNodeContents(text);
    const at = range.getBoundingClientRect();
    if (at.right <= box.left || at.left >= box.right || at.bottom <= box.top || at.top >= box.bottom) return true;
    for (let a = text.parentElement; a; a = up(a)) {
      const style = getComputedStyle(a), own = a.getBoundingClientRect();
      if (style.visibility !== 'visible' || parseFloat(style.opacity) < 0.2) return true;
      if ((own.width <= 2 || own.height <= 2) && style.overflow !== 'visible') return true;
      if (a === e) return false;
    }
    return false;
  };
  const shown = e => {
    const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), box = e.getBoundingClientRect();
    let hides = false;
    while (!hides && walker.nextNode())
      hides = !!walker.currentNode.data.trim() && unseen(walker.currentNode, e, box);
    if (!hides) return e.innerText || '';
    const parts = [];
    walker.currentNode = e;
    while (walker.nextNode()) if (!unseen(walker.currentNode, e, box)) parts.push(walker.currentNode.data);
    return parts.join(' ');
  };
  const drawn = e => e.matches('select:not([multiple])') ? (e.selectedOptions[0] || {label: ''}).label
    : e.matches('input, textarea') ? (WORDLESS.includes(e.type) ? '' : e.value || e.placeholder)
    : e.matches('select') ? '' : shown(e);
  const dropped = {}, found = [];
  const drop = why => { dropped[why] = (dropped[why] || 0) + 1; };
  for (const e of all) {
    e.removeAttribute(mark);
    if (!seen(e)) { drop('invisible'); continue; }
    const words = document.createRange();
    words.selectNodeContents(e);
    const r = (e.matches('h1, h2, h3') ? words : e).getBoundingClientRect();  // a heading is as wide as its words
    if (r.width < minSide || r.height < minSide) { drop('too small'); continue; }
    if (r.right <= 0 || r.bottom <= 0 || r.left >= W || r.top >= H) { drop('off screen'); continue; }
    if (r.width * r.height > 0.5 * W * H) { drop('too large'); continue; }
    let hits = 0;
    for (const fx of [0.1, 0.5, 0.9]) for (const fy of [0.1, 0.5, 0.9]) {
      const x = r.left + r.width * fx, y = r.top + r.height * fy;
      const hit = deepest(Math.min(Math.max(x, 0), W - 1), Math.min(Math.max(y, 0), H - 1));
      if (hit && (belongs(hit, e) || labeled(hit, e))) hits++;
    }
    const middle = deepest((Math.max(r.left, 0) + Math.min(r.right, W)) / 2,
      (Math.max(r.top, 0) + Math.min(r.bottom, H)) / 2);
    if (hits < minHits || !middle) { drop('covered'); continue; }
    if (owner(middle) !== e && !labeled(middle, e)) { drop('holds another'); continue; }
    // Seen in part, or in two parts: not asked for, but a description must not fit it either.
    const clipped = r.left < -1 || r.top < -1 || r.right > W + 1 || r.bottom > H + 1;
    const wraps = getComputedStyle(e).display === 'inline' && e.getClientRects().length > 1;
    if (clipped) drop('clipped');
    else if (wraps) drop('wraps over lines');
    e.setAttribute(mark, found.length);
    const style = getComputedStyle(e);
    found.push({box: [Math.max(r.left, 0), Math.max(r.top, 0), Math.min(r.right, W), Math.min(r.bottom, H)],
      fill: own(e), ink: style.color.match(/[0-9.]+/g).slice(0, 3).map(Number),
      whole: !clipped && !wraps, text: drawn(e).replace(/\\s+/g, ' ').trim().slice(0, 200),
      picture: !!e.querySelector('svg, img, i, canvas') || e.matches('img, svg')});
  }
  return {found, dropped, height: document.documentElement.scrollHeight};
}
"""


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
