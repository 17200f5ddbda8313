"""One MiniWoB++ page, driven live: start an episode by seed, look, click, read the page's own reward.

The pages are those of the PyPI package `miniwob`, unchanged. Each draws its problem with `Math.random`, which the
package's core.js can seed, so (task, seed) names an episode: the same seed draws the same problem again.

Which element solves an episode is found by clicking every one and asking the page (`Searcher`). Nothing is read out
of the page's source: an answer is right because the page rewarded a click on it.

Coordinates here are CSS pixels of the task's 160x210 window: a yellow header of 50 rows that holds the instruction,
and below it the 160x160 area to act in.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from data_prep.web.browser import Browser, PageFailed, Screen
from grounding.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Page

V = TypeVar("V")  # a visit
R = TypeVar("R")  # what is made of it

WINDOW = Screen(width=500, height=320)  # room beside the 160x210 task for the page's own reward display
CROPS: dict[str, tuple[int, int, int, int]] = {"area": (0, 50, 160, 210), "window": (0, 0, 160, 210)}
AWAY = (420.0, 300.0)  # where the mouse rests: outside the task, so that nothing is drawn as hovered

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PageElement:
    """Something of a page that can be seen and hit.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the task's window, clipped to the area.
        tag: "button", "input:radio", "circle" (SVG), ...
        name: what it is called: label, alternative text, value or text.
        classes: its CSS classes.
        painted: whether it draws something itself (a border, a background, a shape) and is not just a wrapper.
        center: whether a click at the middle of the box reaches it.
        leaf: whether it holds no other element that can be hit.
    """

    box: tuple[float, float, float, float]
    tag: str
    name: str
    classes: str
    painted: bool
    center: bool
    leaf: bool

    @property
    def middle(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def area(self) -> float:
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)

    def holds(self, x: float, y: float) -> bool:
        x1, y1, x2, y2 = self.box
        return x1 <= x <= x2 and y1 <= y <= y2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode stands.

    Attributes:
        done: the page has ended the episode.
        raw: the page's reward without its time penalty; 0 while the episode runs.
        reason: the page's own words, where it gives any.
    """

    done: bool
    raw: float
    reason: str | None = None

    @property
    def success(self) -> bool:
        return self.done and self.raw > 0


def html_folder() -> Path:
    """The folder of pages inside the installed package. Raises UsageError when it is missing."""
    spec = importlib.util.find_spec("miniwob")
    if spec is None or spec.origin is None:
        raise UsageError("the Python package miniwob is missing: pip install -e '.[web]'")
    folder = Path(spec.origin).parent / "html"
    if not (folder / "core" / "core.js").is_file():
        raise UsageError(f"{folder}: no pages there; reinstall miniwob: pip install --force-reinstall -e '.[web]'")
    return folder


def all_tasks() -> list[str]:
    """The name of every page of the package, sorted."""
    return sorted(path.stem for path in (html_folder() / "miniwob").glob("*.html"))


class TaskPage:
    """A task opened in a browser page; episodes are started on it again and again.

    Args:
        page: a page of a `Browser`, not intercepted: these pages come with an installed package.
        task: name of the task, for instance "click-button".
        mode: the page's own data split, "train" or "test"; two tasks draw other problems in "test".
        timeout: seconds that loading may take.

    Raises:
        playwright.sync_api.TimeoutError: the page does not load.
    """

    def __init__(self, page: Page, task: str, mode: str = "train", timeout: float = 10.0):
        self.task = task
        self._url = (html_folder() / "miniwob" / f"{task}.html").as_uri()
        self._page = page
        self._mode = mode
        page.set_default_timeout(timeout * 1000)
        self.reload()

    def reload(self) -> None:
        """Load the page anew.

        Starting another episode restores the problem, but not everything: after earlier episodes some borders are
        drawn a shade differently. What must not depend on the past (a screenshot, a score) begins with this.
        """
        self._page.goto(self._url, wait_until="load")
        self._page.evaluate(SCRIPT)
        self.start("warm up")  # pages fetch some of their pictures when the first episode draws them
        self._page.evaluate("() => fovea.pictures()")

    def start(self, seed: str) -> str:
        """Begin the episode `seed` with the mouse away from the task, and return its instruction."""
        self._page.mouse.move(*AWAY)
        return self._page.evaluate("([seed, mode]) => fovea.start(seed, mode)", [seed, self._mode])

    def screenshot(self, crop: str = "area") -> Image.Image:
        """The task as it is drawn now, RGB; `crop` is a key of `CROPS`."""
        self._page.evaluate("() => fovea.pictures()")
        x1, y1, x2, y2 = CROPS[crop]
        data = self._page.screenshot(clip={"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}, type="png")
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")

    def elements(self) -> list[PageElement]:
        """What can be seen and hit now, in document order."""
        rows: list[dict[str, Any]] = self._page.evaluate("() => fovea.elements()")
        return [PageElement(**{**row, "box": tuple(row["box"])}) for row in rows]

    def click(self, x: float, y: float, settle: float = 0.0) -> Outcome:
        """Press and release the mouse at (x, y) and read the page's reward.

        Args:
            settle: seconds to wait for a page that rewards late, when the episode is not over at once.
        """
        self._page.mouse.click(x, y)
        outcome = self.outcome()
        if not outcome.done and settle:
            self._page.wait_for_timeout(settle * 1000)
            outcome = self.outcome()
        return outcome

    def outcome(self) -> Outcome:
        return _outcome(self._page.evaluate("() => fovea.state()"))

    def probe(self, seed: str, points: list[tuple[int, int]]) -> list[Outcome]:
        """What a click at each point, each from a fresh start of `seed`, is worth, all in one go.

        The events are made by a script in the page and not by a mouse: some fifty times as fast, and only a first
        look. Whoever relies on an outcome clicks for real.
        """
        states = self._page.evaluate(
            "([seed, mode, points]) => fovea.probe(seed, mode, points)",
            [seed, self._mode, [list(point) for point in points]],
        )
        return [_outcome(state) for state in states]

    def try_click(self, seed: str, x: float, y: float, settle: float = 0.0) -> Outcome:
        """`start` and `click` in one."""
        self.start(seed)
        return self.click(x, y, settle)


def visit(
    browser: Browser,
    visits: Sequence[V],
    about: Callable[[V], tuple[str, str, str]],
    do: Callable[[TaskPage, V], R],
    failed: Callable[[V, PageFailed], R],
    *,
    seconds: float,
) -> Iterator[R]:
    """What `do` makes of each visit, in order; neighbors of one task share a page.

    Args:
        about: the task of a visit, the page's own data split, and a name for messages.
        failed: what stands for a visit whose page failed; the next one opens it anew.
        seconds: how long loading the page, and each visit, may take.
    """
    at = 0
    while at < len(visits):
        task, mode, name = about(visits[at])
        try:
            with browser.page(WINDOW, intercept=False) as page:
                with browser.deadline(seconds, name):
                    task_page = TaskPage(page, task, mode)
                while at < len(visits) and about(visits[at])[:2] == (task, mode):
                    with browser.deadline(seconds, about(visits[at])[2]):
                        made = do(task_page, visits[at])
                    yield made
                    at += 1
        except PageFailed as error:
            yield failed(visits[at], error)
            at += 1


def _outcome(state: dict[str, Any]) -> Outcome:
    return Outcome(bool(state["done"]), float(state["raw"] or 0), state["reason"])


INSET = 0.06  # probes near a box's corners sit this share of its sides inside


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the page where a click solves the episode.

    Attributes:
        element: the element it belongs to; its box is the region and a click at its middle was rewarded.
        raw: the reward, without time penalty.
    """

    element: PageElement
    raw: float


@dataclass(frozen=True, slots=True)
class Search:
    """What clicking everything found out about an episode.

    Attributes:
        instruction: the page's own words.
        elements: what could be seen and hit at the start.
        regions: where one click earns the highest reward, apart from one another: of nested elements that are
            rewarded alike, the largest that draws itself and is rewarded up to its corners, else the smallest.
            Empty when no click is rewarded.
        clicks: how many clicks were tried.
    """

    instruction: str
    elements: tuple[PageElement, ...]
    regions: tuple[Region, ...]
    clicks: int


class Searcher:
    """Tries clicks on the episodes of one task.

    Args:
        page: the task.
        real: click with the mouse, each on a fresh start (0.1 s an element on a busy machine), instead of with
            scripted events (0.005 s).
    """

    def __init__(self, page: TaskPage, real: bool = False):
        self._page = page
        self._real = real
        self._seed = ""
        self._worth: dict[tuple[int, int], float] = {}

    def search(self, seed: str) -> Search:
        """Click the middle of every element of the episode `seed`, each from a fresh start."""
        self._seed, self._worth = seed, {}
        instruction = self._page.start(seed)
        elements = self._page.elements()
        values = self._try([element.middle for element in elements])
        best = max(values, default=0.0)
        if best <= 0:
            return Search(instruction, tuple(elements), (), len(self._worth))
        rewarded = [element for element, value in zip(elements, values, strict=True) if value == best]
        solid = {element for element in rewarded if element.painted and self._solid(element, best)}
        regions: list[PageElement] = []
        for element in sorted(rewarded, key=lambda e: (0, -e.area, e.box) if e in solid else (1, e.area, e.box)):
            if not any(other.holds(*element.middle) or element.holds(*other.middle) for other in regions):
                regions.append(element)
        return Search(instruction, tuple(elements), tuple(Region(e, best) for e in regions), len(self._worth))

    def _solid(self, element: PageElement, best: float) -> bool:
        """Whether a click near each corner of `element` is rewarded too, and not only one on something inside it."""
        x1, y1, x2, y2 = element.box
        dx, dy = INSET * (x2 - x1), INSET * (y2 - y1)
        corners = [(x, y) for x in (x1 + dx, x2 - dx) for y in (y1 + dy, y2 - dy)]
        return all(value == best for value in self._try(corners))

    def _try(self, points: list[tuple[float, float]]) -> list[float]:
        """The raw reward of a click at each point; 0 where the episode goes on."""
        rounded = [(round(x), round(y)) for x, y in points]
        new = [point for point in dict.fromkeys(rounded) if point not in self._worth]
        if self._real:
            outcomes = [self._page.try_click(self._seed, *point) for point in new]
        else:
            outcomes = self._page.probe(self._seed, new)
        for point, outcome in zip(new, outcomes, strict=True):
            self._worth[point] = outcome.raw if outcome.done else 0.0
        return [self._worth[point] for point in rounded]
