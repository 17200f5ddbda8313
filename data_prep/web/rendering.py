"""Screens of web pages, rendered in headless Chromium: elements with boxes, and instructions for them.

    python -m data_prep web --root site/ --out data/web --screens 1280x800 390x844@2 --themes light dark

Reads every .html file below --root (or the URLs in --urls, one a line). A page sees that folder and no network; hosts
besides must be named with --allow-host. Pages with scripts run them inside the browser, with a fixed clock and fixed
random numbers, so that the same page gives the same screen again.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from data_prep import Item, Reject, source
from data_prep.pipeline.writer import WORK
from data_prep.web.browser import Browser, PageFailed, Screen, url_for_file
from data_prep.web.harvest import HarvestedScreen, WebElement, look
from data_prep.web.instructions import FORMS, write
from grounding.errors import UsageError
from grounding.folders import STAGING
from grounding.io import replacing
from grounding.sample import ImageRef, Sample, from_row, to_row
from grounding.targets import Box

if TYPE_CHECKING:
    from playwright.sync_api import Page

CLOCK = 1_735_689_600_000  # 2025-01-01, in ms: what Date says in every page
FIXED = Path(__file__).with_name("fixed_random.js").read_text(encoding="utf-8")
BLANK_REACH = 3  # device pixels beside an element where its surroundings are looked at
BLANK_STEP = 12  # of 255 in R, G or B: a smaller difference is nothing that can be seen
QUIET = "*, *::before, *::after { transition: none !important; animation: none !important; caret-color: transparent }"
STYLE = (
    "css => { const s = document.createElement('style'); s.textContent = css; document.documentElement.append(s); }"
)


@dataclass(frozen=True, slots=True)
class View:
    """One screen to take: a page on a screen, scrolled by whole screens."""

    url: str
    page: str
    screen: Screen
    scroll: int

    @property
    def name(self) -> str:
        digest = hashlib.sha256(f"{self.page} {self.screen} {self.scroll}".encode()).hexdigest()[:12]
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.page).stem).strip("-")[:40]
        return f"{stem}-{digest}"


def screen(text: str) -> tuple[int, int, float]:
    """Read ``WIDTHxHEIGHT`` or ``WIDTHxHEIGHT@SCALE``."""
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})(?:@(\d+(?:\.\d+)?))?", text)
    if match is None or not 0.25 <= float(match[3] or 1) <= 4:
        raise ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT[@SCALE], with a scale of 0.25 to 4")
    return int(match[1]), int(match[2]), float(match[3] or 1)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--urls", type=Path, help="file of URLs, one a line, instead of the .html files of --root")
    parser.add_argument(
        "--screens",
        action="several",
        type=screen,
        default=[(1280, 800, 1.0), (390, 844, 2.0)],
        help="sizes of the browser window (1280x800 390x844@2)",
    )
    parser.add_argument("--themes", action="several", choices=("light", "dark"), default=["light"])
    parser.add_argument("--scrolls", type=int, default=1, help="screens to take down each page (1)")
    parser.add_argument("--forms", action="several", choices=FORMS, default=list(FORMS), help="forms of instruction")
    parser.add_argument("--per-screen", type=int, default=8, help="elements to ask for on each screen (8)")
    parser.add_argument("--val-pages", type=float, default=0.0, help="share of pages, with all screens, for val (0)")
    parser.add_argument("--page-seconds", type=float, default=15.0, help="time a page gets to load (15)")
    parser.add_argument("--no-scripts", action="store_true", help="switch JavaScript off in the pages")
    parser.add_argument("--allow-host", action="several", default=[], help="hosts pages may reach; '*' is every host")
    parser.add_argument("--license-of-pages", default="unknown", help="license to note in every sample")
    parser.add_argument("--chromium", help="path of the Chromium to use")
    parser.add_argument("--no-sandbox", action="store_true", help="start Chromium without its sandbox")


@source(
    "web",
    reads=".html files below --root, or URLs, rendered in a headless Chromium",
    license="that of the pages; say it with --license-of-pages",
    add_arguments=add_arguments,
    max_rejects=0.5,
)
def convert(args: Namespace) -> Iterator[Item | Reject]:
    """Render and harvest every view.

    A finished view is kept while the run goes on, so that an interrupted run does not render it again.

    Raises:
        UsageError: no pages, a URL whose host is not allowed, or no browser.
    """
    root = args.root.resolve()
    views = plan(root, args)
    kept = args.out / WORK / "views"
    sandbox = False if args.no_sandbox else None
    hosts = frozenset(args.allow_host)
    with Browser(root, executable=args.chromium, allow_hosts=hosts, sandbox=sandbox) as browser:
        for view in views:
            path = f"images/{view.name}.png"
            memo = kept / f"{view.name}.json"
            told = json.loads(memo.read_text(encoding="utf-8")) if memo.is_file() else None
            if told is not None and (not told.get("items") or (args.out / STAGING / path).is_file()):
                yield from _recall(told, view.name)
                continue
            result = render(browser, view, args)
            memo.parent.mkdir(parents=True, exist_ok=True)
            with replacing(memo) as temporary:
                temporary.write_text(_remember(result), encoding="utf-8")
            yield from result


def plan(root: Path, args: Namespace) -> list[View]:
    """Every view to take, in order of pages."""
    if args.urls is not None:
        if not args.urls.is_file():
            raise UsageError(f"--urls {args.urls}: no such file")
        lines = [line.strip() for line in args.urls.read_text(encoding="utf-8").splitlines()]
        pages = [(line, line) for line in lines if line and not line.startswith("#")]
        for url, _ in pages:
            host = urlsplit(url).hostname
            if not {"*", host} & set(args.allow_host):
                raise UsageError(f"{url}: pages may not reach {host}; allow it with --allow-host {host}")
    else:
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".html", ".htm") and p.is_file())
        pages = [(url_for_file(root, path), path.relative_to(root).as_posix()) for path in files]
    if not pages:
        raise UsageError(f"{args.urls or root}: no pages there")
    return [
        View(url, page, Screen(width, height, scale, theme), scroll)
        for url, page in pages
        for width, height, scale in args.screens
        for theme in args.themes
        for scroll in range(args.scrolls)
    ]


def render(browser: Browser, view: View, args: Namespace) -> list[Item | Reject]:
    """Take one view: its samples, or the reason why there are none."""
    where = f"{view.page} {view.screen} {view.scroll}"
    try:
        with (
            browser.page(view.screen, scripts=not args.no_scripts) as page,
            browser.deadline(2 * args.page_seconds + 5, where),
        ):
            seen = _show(page, view, args.page_seconds, not args.no_scripts)
            if seen is None:
                return []  # the page is not as long as that
            image = page.screenshot(type="png", animations="disabled", caret="hide", timeout=args.page_seconds * 1000)
    except PageFailed as error:
        return [Reject(where, error.reason, str(error))]
    with Image.open(io.BytesIO(image)) as picture:
        picture.load()
    seen = without_blanks(seen, view.screen, picture.convert("RGB"))
    items = list(samples(view, seen, image, args))
    return [*items] if items else [Reject(where, "nothing to ask for", json.dumps(seen.dropped))]


def without_blanks(seen: HarvestedScreen, shown: Screen, picture: Image.Image) -> HarvestedScreen:
    """The look without elements where nothing is drawn, such as a button whose icon font is missing."""
    drawn = [e for e in seen.elements if _is_drawn([round(v * shown.scale) for v in e.box], picture)]
    blank = len(seen.elements) - len(drawn)
    return replace(seen, elements=tuple(drawn), dropped={**seen.dropped, "nothing drawn": blank}) if blank else seen


def _is_drawn(box: list[int], picture: Image.Image) -> bool:
    """Whether something is in the box, or the box itself stands out from all four sides.

    What is drawn has an edge: a step between two pixels side by side. A shadow that falls on an empty element is as
    dark at one end as an icon, but without a step.
    """
    x1, y1, x2, y2 = box
    inner = np.asarray(picture.crop((x1, y1, min(x2, picture.width), min(y2, picture.height))), dtype=np.int16)
    if any((np.abs(np.diff(inner, axis=axis)) > BLANK_STEP).any() for axis in (0, 1)):
        return True
    x, y, beside = (x1 + x2) // 2, (y1 + y2) // 2, BLANK_REACH
    around = [(x1 - beside, y), (x2 + beside, y), (x, y1 - beside), (x, y2 + beside)]
    outside = [picture.getpixel(p) for p in around if 0 <= p[0] < picture.width and 0 <= p[1] < picture.height]
    own = picture.getpixel((min(x, picture.width - 1), min(y, picture.height - 1)))
    return all(max(abs(a - b) for a, b in zip(own, other, strict=True)) > BLANK_STEP for other in outside)


def _show(page: Page, view: View, seconds: float, scripts: bool) -> HarvestedScreen | None:
    """Load, scroll and harvest; None when the page is not as long as that."""
    page.set_default_timeout(seconds * 1000)
    page.on("popup", lambda popup: popup.close())
    page.clock.set_fixed_time(CLOCK)
    page.add_init_script(FIXED)
    response = page.goto(view.url, wait_until="load")
    if response is not None and response.status >= 400:
        raise PageFailed(f"{view.url}: HTTP status {response.status}", "does not load")
    page.evaluate(STYLE, QUIET)
    if view.scroll:
        top = page.evaluate("y => { scrollTo({top: y, behavior: 'instant'}); return scrollY; }", _offset(view))
        if top < _offset(view):
            return None
    if scripts:  # without them a page gets no callbacks, this one included
        page.evaluate("() => document.fonts.ready.then(() => new Promise(r => requestAnimationFrame(() => r(1))))")
    return look(page)


def _offset(view: View) -> int:
    return view.scroll * view.screen.height


def samples(view: View, seen: HarvestedScreen, image: bytes, args: Namespace) -> Iterator[Item]:
    """An item for each chosen element and form; which elements depends on the seed and the view."""
    rng = random.Random(f"{args.seed}/{view.name}")
    written = [
        (e, write(e, (*seen.elements, *seen.others), view.screen.width, view.screen.height)) for e in seen.elements
    ]
    askable = [(e, words) for e, words in written if any(form in words for form in args.forms)]
    chosen = sorted(rng.sample(range(len(askable)), min(args.per_screen, len(askable))))
    path = f"images/{view.name}.png"
    ref = ImageRef(path, *_png_size(image))
    split = "val" if _share(view.page, args.seed) < args.val_pages else "train"
    for index in chosen:
        element, words = askable[index]
        for form in args.forms:
            if form in words:
                sample = Sample(
                    id=f"web/{view.name}/{index}/{form}",
                    images=(ref,),
                    instruction=words[form],
                    target=to_box(element, view.screen),
                    source="web",
                    license=args.license_of_pages,
                    meta={
                        "page": view.page,
                        "screen": str(view.screen),
                        "scroll": view.scroll,
                        "form": form,
                        "role": element.role,
                        "name": element.name,
                        "ui_type": "icon" if element.picture and not element.text else "text",
                        "elements": len(seen.elements),
                        "dropped": sum(seen.dropped.values()),
                    },
                )
                yield Item(sample, {path: image}, split)


def to_box(element: WebElement, shown: Screen) -> Box:
    """The element's box in the canonical frame."""
    x1, y1, x2, y2 = element.box
    sides = (x1 / shown.width, y1 / shown.height, x2 / shown.width, y2 / shown.height)
    return Box(*(round(min(max(value, 0.0), 1.0), 6) for value in sides))


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _share(page: str, seed: int) -> float:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{page}".encode(), digest_size=8).digest()) / 2**64


def _remember(result: list[Item | Reject]) -> str:
    if result and isinstance(result[0], Reject):
        return json.dumps({"reject": asdict(result[0])})
    return json.dumps({"items": [[i.split, to_row(i.sample)] for i in result if isinstance(i, Item)]})


def _recall(told: dict[str, Any], where: str) -> Iterator[Item | Reject]:
    if "reject" in told:
        yield Reject(**told["reject"])
    for split, row in told.get("items", ()):
        yield Item(from_row(row, where), {}, split)
