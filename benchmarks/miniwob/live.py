"""Live MiniWoB++ episodes: show every page first, click on each later, and believe the page's own reward.

    DIR/episodes.jsonl   one episode a line: task, seed, instruction, elements, the regions that are rewarded
    DIR/images/          what a model is shown

The seed draws the same problem again, so that a model can answer a batch of screenshots before anything is clicked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from data_prep.miniwob.solved_pages import page_mode, page_seed, to_box
from data_prep.miniwob.task_page import CROPS, Outcome, Searcher, TaskPage, html_folder, visit
from data_prep.pipeline.images import png
from data_prep.web.browser import Browser, PageFailed
from grounding.errors import UsageError
from grounding.folders import claim, writing
from grounding.io import replacing
from grounding.journal import Journal, read_journal

log = logging.getLogger(__name__)

EPISODES = "episodes.jsonl"
SECONDS = 60.0  # for loading and searching one page, which takes under a second
SETTLE = 0.05  # seconds a page gets to reward a click late; those of one click do so at once
XY = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Episode:
    """One live page.

    Attributes:
        id: "task/number".
        task, seed: name the episode.
        image: path of the screenshot relative to the folder.
        crop: what the screenshot shows of the task, a key of `CROPS`.
        instruction: the page's own words.
        elements: the boxes of what can be seen and hit and holds nothing smaller that can; canonical xyxy.
        regions: the boxes whose middle was rewarded in the search, canonical xyxy; empty when none was.
        problem: why the page could not be shown; None when it could.
    """

    id: str
    task: str
    seed: str
    image: str
    crop: str
    instruction: str
    elements: tuple[tuple[float, ...], ...] = ()
    regions: tuple[tuple[float, ...], ...] = ()
    problem: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        x1, y1, x2, y2 = CROPS[self.crop]
        return x2 - x1, y2 - y1


def collect(
    folder: Path,
    tasks: Sequence[str],
    per_task: int,
    *,
    split: str = "test",
    seed: int = 0,
    crop: str = "area",
    chromium: str | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Episode]:
    """Open every page and write down what it shows; what the folder already holds is kept.

    Args:
        progress: called with how many further episodes are there.

    Returns:
        The episodes asked for, by task and number.

    Raises:
        UsageError: Playwright, Chromium or the package are missing, or the folder holds another crop.
    """
    have = {(e.task, e.seed): e for e in read_episodes(folder)} if (folder / EPISODES).is_file() else {}
    if any(e.crop != crop for e in have.values()):
        raise UsageError(f"{folder}: holds screenshots of another crop than {crop!r}; use another folder")
    header = {"kind": "MiniWoB++ episodes", "split": split, "seed": seed, "crop": crop}
    wanted = [(task, page_seed(split, seed, task, n), f"{task}/{n:04d}") for task in tasks for n in range(per_task)]
    progress(len([w for w in wanted if w[:2] in have]))
    missing = [w for w in wanted if w[:2] not in have]
    if missing:
        if not (folder / EPISODES).is_file():
            claim(folder, header["kind"])
        with writing(folder), Journal(folder / EPISODES, header) as journal:
            for episode in _show(folder, missing, page_mode(split), crop, chromium):
                journal.append(asdict(episode))
                have[episode.task, episode.seed] = episode
                progress(1)
    return [have[task, page] for task, page, _ in wanted]


def read_episodes(folder: Path) -> list[Episode]:
    """What `collect` wrote, up to where it was interrupted.

    Raises:
        UsageError: there is no such file, or it is of something else.
        BrokenRow: a line cannot be read.
    """
    path = folder / EPISODES
    if not path.is_file():
        raise UsageError(f"{path} is missing: python -m benchmarks.miniwob --policy oracle --data {folder} makes it")
    return [
        Episode(**{**row, "elements": _boxes(row["elements"]), "regions": _boxes(row["regions"])})
        for row in read_journal(path)
    ]


def _boxes(rows: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _show(
    folder: Path, wanted: Sequence[tuple[str, str, str]], mode: str, crop: str, chromium: str | None
) -> Iterator[Episode]:
    def show(page: TaskPage, want: tuple[str, str, str]) -> Episode:
        episode, image = _episode(page, *want, crop)
        _save(folder / episode.image, image)
        return episode

    def failed(want: tuple[str, str, str], error: PageFailed) -> Episode:
        log.warning("%s", error)
        task, seed, name = want
        episode = Episode(name, task, seed, f"images/{name}.png", crop, f"{task}: no page", problem=str(error))
        _save(folder / episode.image, Image.new("RGB", episode.size, "gray"))
        return episode

    with Browser(html_folder(), executable=chromium) as browser:
        yield from visit(browser, wanted, lambda want: (want[0], mode, want[2]), show, failed, seconds=SECONDS)


def _episode(page: TaskPage, task: str, seed: str, name: str, crop: str) -> tuple[Episode, Image.Image]:
    page.reload()
    instruction = page.start(seed)
    image = page.screenshot(crop)
    search = Searcher(page).search(seed)
    episode = Episode(
        id=name,
        task=task,
        seed=seed,
        image=f"images/{name}.png",
        crop=crop,
        instruction=instruction,
        elements=tuple(to_box(e.box, crop).xyxy for e in search.elements if e.leaf and e.center),
        regions=tuple(to_box(r.element.box, crop).xyxy for r in search.regions),
    )
    return episode, image


def _save(path: Path, image: Image.Image) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(png(image))


def play(episodes: Sequence[Episode], clicks: Sequence[XY], *, chromium: str | None = None) -> list[Outcome]:
    """Open every episode again and click on it with the mouse.

    Args:
        clicks: where, (x, y) in [0, 1] of the screenshot; one per episode.

    Returns:
        How each ended; a page that hangs or does not load has not been rewarded, and its `reason` says so.
    """
    order = sorted(range(len(episodes)), key=lambda i: (episodes[i].task, page_mode_of(episodes[i])))

    def about(i: int) -> tuple[str, str, str]:
        return episodes[i].task, page_mode_of(episodes[i]), episodes[i].id

    def click(page: TaskPage, i: int) -> Outcome:
        return page.try_click(episodes[i].seed, *to_pixels(clicks[i], episodes[i].crop), SETTLE)

    def failed(i: int, error: PageFailed) -> Outcome:
        log.warning("%s", error)
        return Outcome(False, 0.0, str(error))

    with Browser(html_folder(), executable=chromium) as browser:
        made = visit(browser, order, about, click, failed, seconds=SECONDS)
        outcomes = dict(zip(order, made, strict=True))
    return [outcomes[i] for i in range(len(episodes))]


def page_mode_of(episode: Episode) -> str:
    """The page's data split that the episode was drawn in: its seed begins with the split's name."""
    return page_mode(episode.seed.partition("/")[0])


def to_pixels(click: XY, crop: str) -> XY:
    """Window pixels of a canonical click; the right and lower edge belong to the last pixel."""
    left, top, right, bottom = CROPS[crop]
    x = left + min(max(click[0], 0.0), 1.0) * (right - left)
    y = top + min(max(click[1], 0.0), 1.0) * (bottom - top)
    return min(x, right - 0.5), min(y, bottom - 0.5)
