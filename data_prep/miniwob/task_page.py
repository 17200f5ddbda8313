"""One MiniWoB++ page, driven live: start an episode by seed, look, click, read the page's own reward.

The pages are those of the PyPI package `miniwob`, unchanged. Each draws its problem with `Math.random`, which the
package's core.js can seed, so (task, seed) names an episode: the same seed draws the same problem again.

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
