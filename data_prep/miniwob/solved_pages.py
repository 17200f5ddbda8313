"""MiniWoB++: instructions and boxes harvested from the live pages, each answer proven by a rewarded click.

    python -m data_prep miniwob --out data/miniwob --per-task 50 --seed 0

Every page is drawn from a seed that names its split ("train/0/click-button/17"), so a page of one split is never
one of another. `Searcher` finds the element that the page rewards; then the episode is started
anew and the middle of the box clicked with the mouse. Pages where several elements are right are drawn again (up
to `--tries` times): a single box would call the others wrong.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from data_prep import SPLITS, Item, Reject, source
from data_prep.miniwob import SINGLE_CLICK
from data_prep.miniwob.task_page import CROPS, PageElement, Search, Searcher, TaskPage, all_tasks, html_folder, visit
from data_prep.pipeline.images import png
from data_prep.screens.appearance import ninth
from data_prep.web.browser import Browser
from grounding.errors import UsageError
from grounding.registry import nearest
from grounding.sample import ImageRef, Sample
from grounding.targets import Box

LICENSE = "MIT"
KINDS = {
    "button": "button",
    "a": "link",
    "input:text": "field",
    "input": "field",
    "input:input": "field",
    "textarea": "field",
    "input:radio": "radio button",
    "input:checkbox": "checkbox",
    "circle": "circle",
    "rect": "rectangle",
    "polygon": "polygon",
    "text": "text",
    "li": "item",
    "label": "label",
}
ICON_AREA = 24 * 24  # square pixels; a nameless thing up to this size is called an icon
PAGE_SECONDS = 60.0  # a page takes half a second; one that takes this long hangs


@dataclass(frozen=True, slots=True)
class Slot:
    """One page to harvest."""

    task: str
    split: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.task}/{self.number:05d}"


def page_seed(split: str, seed: int, task: str, number: int, attempt: int = 0) -> str:
    """The seed of a page. Splits cannot share one, because it begins with the split's name."""
    return f"{split}/{seed}/{task}/{number}" + (f"/{attempt}" if attempt else "")


def page_mode(split: str) -> str:
    """The page's own data split: "test" draws problems of click-test-transfer that "train" never does."""
    return "train" if split == "train" else "test"


def check_tasks(names: list[str]) -> list[str]:
    """`names`, if all are pages of the package. Raises UsageError otherwise, with the nearest name."""
    known = all_tasks()
    for name in names:
        if name not in known:
            raise UsageError(f"unknown MiniWoB++ task {name!r}{nearest(name, known)}")
    return names


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--per-task", type=int, default=50, help="pages of each task for train (50)")
    parser.add_argument("--val-per-task", type=int, default=10, help="pages of each task for val (10)")
    parser.add_argument("--test-per-task", type=int, default=0, help="pages of each task for test (0: it is live)")
    parser.add_argument("--tasks", action="several", help=f"tasks (the {len(SINGLE_CLICK)} that one click solves)")
    parser.add_argument(
        "--crop",
        choices=sorted(CROPS),
        default="area",
        help="area: the 160x160 below the yellow header, which only repeats the instruction (default);"
        " window: all 160x210",
    )
    parser.add_argument("--tries", type=int, default=8, help="pages to draw until one has a single answer (8)")
    parser.add_argument("--elements", action="store_true", help="list every element of the page in meta.elements")
    parser.add_argument("--chromium", help="path of the Chromium to use")


@source(
    "miniwob",
    reads="the pages inside the PyPI package miniwob, in a headless Chromium",
    license=LICENSE,
    home="https://github.com/Farama-Foundation/miniwob-plusplus",
    add_arguments=add_arguments,
    needs_root=False,
    seeks=True,
    max_rejects=0.5,
)
def convert(args: Namespace) -> Iterator[Item | Reject]:
    """Harvest; see the module. One item per slot, so that a rerun continues where the last one ended.

    Raises:
        UsageError: an unknown task, or Playwright, Chromium or the package are missing.
    """
    with Browser(html_folder(), executable=args.chromium) as browser:
        yield from visit(
            browser,
            plan(args)[args.start :],
            lambda slot: (slot.task, page_mode(slot.split), slot.name),
            lambda page, slot: harvest(page, slot, args),
            lambda slot, error: Reject(slot.name, error.reason, str(error)),
            seconds=PAGE_SECONDS * args.tries,
        )


def plan(args: Namespace) -> list[Slot]:
    """Every page to harvest, in order."""
    tasks = check_tasks(args.tasks) if args.tasks else list(SINGLE_CLICK)
    counts = {"train": args.per_task, "val": args.val_per_task, "test": args.test_per_task}
    return [Slot(task, split, n) for task in tasks for split in SPLITS for n in range(counts[split])]


def harvest(page: TaskPage, slot: Slot, args: Namespace) -> Item | Reject:
    """One page: screenshot, the element that is rewarded, and the proof."""
    found = 0
    for attempt in range(args.tries):
        seed = page_seed(slot.split, args.seed, slot.task, slot.number, attempt)
        page.reload()
        page.start(seed)
        image = page.screenshot(args.crop)
        search = Searcher(page).search(seed)
        found = len(search.regions)
        if found != 1:
            continue
        if not page.try_click(seed, *search.regions[0].element.middle).success:
            return Reject(slot.name, "click not rewarded again", seed)
        return item_of(slot, seed, image, search, args)
    return Reject(slot.name, "several right answers" if found else "not solved by one click", f"{args.tries} pages")


def item_of(slot: Slot, seed: str, image: Image.Image, search: Search, args: Namespace) -> Item:
    """The sample of a solved page."""
    region = search.regions[0]
    box = to_box(region.element.box, args.crop)
    meta: dict[str, str | int | float] = {
        "task": slot.task,
        "page_seed": seed,
        "tag": region.element.tag,
        "name": region.element.name,
        "reward": region.raw,
        "elements_seen": len(search.elements),
    }
    if args.elements:
        rows = [[*to_box(e.box, args.crop).xyxy, kind_word(e), e.name] for e in search.elements]
        meta["elements"] = json.dumps(rows, ensure_ascii=False)
    path = f"images/{slot.split}/{slot.task}/{slot.number:05d}.png"
    sample = Sample(
        id=f"miniwob/{slot.split}/{slot.name}",
        images=(ImageRef(path, image.width, image.height),),
        instruction=search.instruction,
        target=box,
        source="miniwob",
        license=LICENSE,
        thought=thought_of(region.element, box),
        meta=meta,
    )
    return Item(sample, {path: png(image)}, slot.split)  # type: ignore[arg-type]


def to_box(pixels: tuple[float, float, float, float], crop: str) -> Box:
    """A box of the task's window, in the frame of its screenshot; what sticks out is cut off."""
    left, top, right, bottom = CROPS[crop]
    x1, x2 = (round(min(max((v - left) / (right - left), 0.0), 1.0), 6) for v in pixels[::2])
    y1, y2 = (round(min(max((v - top) / (bottom - top), 0.0), 1.0), 6) for v in pixels[1::2])
    return Box(x1, y1, x2, y2)


def kind_word(element: PageElement) -> str:
    """What a person would call an element: "button", "link", "field", ..."""
    if "alink" in element.classes.split():  # the package's own links are spans
        return "link"
    if "ui-tabs-tab" in element.classes.split():
        return "tab"
    if element.tag in KINDS:
        return KINDS[element.tag]
    if element.name:
        return "item"
    return "icon" if element.area <= ICON_AREA else "box"


def thought_of(element: PageElement, box: Box) -> str:
    """A thought that is true by construction: what the rewarded element is called and where it lies."""
    named = f' "{element.name}"' if element.name else ""
    return f"I look for the {kind_word(element)}{named}. It is at the {ninth(3 * box.center.x, 3 * box.center.y)}."
