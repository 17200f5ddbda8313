"""Which element of a MiniWoB++ episode solves it, found by clicking every one and asking the page.

Nothing is read out of the page's source: an answer is right because the page rewarded a click on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.miniwob.task_page import PageElement, TaskPage

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
