"""A headless Chromium that sees one folder and nothing else.

Pages are read from a folder on disk: every request of a page is intercepted and answered from that folder under
the origin `ORIGIN`, so absolute links, modules and fetch() work as on a web server without a socket being opened.
Every other request is refused, unless its host was allowed by name. A dead proxy and a resolver that knows no
names stand behind the interception, for what it does not see (WebSocket, WebRTC, prefetching).

Playwright and Chromium are optional: `pip install -e '.[web]'` and a Chromium of the system (Debian: chromium).
"""

from __future__ import annotations

import logging
import mimetypes
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from grounding.errors import FoveaError, UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Browser as PlaywrightBrowser
    from playwright.sync_api import Page, Route

log = logging.getLogger(__name__)

ORIGIN = "https://pages.invalid"  # .invalid never resolves (RFC 2606); https gives pages a secure context
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "chrome.exe")
CHROMIUM_PLACES = (
    "/usr/lib/chromium/chromium",
    "/snap/bin/chromium",
    "/opt/google/chrome/chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)


class PageFailed(FoveaError):
    """A page could not be used. The browser is, or the next page starts a new one.

    Attributes:
        reason: "never finishes loading", "page hangs" (its browser had to be ended), or "does not load".
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def find_chromium(explicit: str | Path | None = None) -> Path:
    """The Chromium (or Chrome) to drive: the one named, else the first on PATH, else the usual places.

    Raises:
        UsageError: the named file does not exist, or none was found.
    """
    if explicit is not None:
        path = Path(explicit)
        if not path.is_file():
            raise UsageError(f"--chromium {path}: no such file")
        return path
    for name in CHROMIUM_NAMES:
        if found := shutil.which(name):
            return Path(found)
    for place in CHROMIUM_PLACES:
        if Path(place).is_file():
            return Path(place)
    raise UsageError("Chromium not found: install it (Debian: apt install chromium) or name it with --chromium PATH")


def file_for_url(root: Path, url: str) -> Path | None:
    """The file under `root` that a URL of `ORIGIN` means; None when there is none or it lies outside `root`.

    A folder means its index.html. Symbolic links are followed only as far as they stay inside.
    """
    relative = unquote(urlsplit(url).path).lstrip("/")
    if "\0" in relative:
        return None
    try:
        path = (root / relative).resolve()
        if path.is_dir():
            path = (path / "index.html").resolve()
        inside = path.is_relative_to(root.resolve())
        return path if inside and path.is_file() else None
    except (OSError, ValueError):  # a name too long for the file system, a loop of links
        return None


def url_for_file(root: Path, path: Path) -> str:
    """The URL that shows a file of `root`."""
    return f"{ORIGIN}/{quote(path.relative_to(root).as_posix())}"


def _type_of(path: Path, body: bytes) -> str:
    """Content type of a file; text that is UTF-8 is said to be, as a browser assumes of files on disk."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if not kind.startswith("text/"):
        return kind
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return kind
    return f"{kind}; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Screen:
    """What a page is rendered on.

    Attributes:
        width, height: the viewport in CSS pixels.
        scale: device pixels per CSS pixel; a screenshot has `width * scale` columns.
        theme: "light" or "dark", what the page reads as prefers-color-scheme.
    """

    width: int
    height: int
    scale: float = 1.0
    theme: str = "light"

    def __str__(self) -> str:
        return f"{self.width}x{self.height}@{self.scale:g}-{self.theme}"


@dataclass
class Browser:
    """A headless Chromium that is started on first use and restarted after it hung; a context manager.

    Attributes:
        root: the folder that pages are read from.
        executable: the Chromium to start; None finds one.
        allow_hosts: hosts that pages may reach besides the folder; "*" is every host. Loopback needs naming too.
        sandbox: Chromium's own sandbox; None is on, except for root, whom Chromium refuses to sandbox.
        refused: how many requests of pages were refused, by host.
    """

    root: Path
    executable: str | Path | None = None
    allow_hosts: frozenset[str] = frozenset()
    sandbox: bool | None = None
    refused: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Browser:
        try:
            from playwright.sync_api import sync_playwright  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UsageError("the Python package playwright is missing: pip install -e '.[web]'") from error
        if not self.root.is_dir():
            raise UsageError(f"{self.root}: no such folder")
        self._path = find_chromium(self.executable)
        if self.sandbox is None:
            self.sandbox = not (hasattr(os, "geteuid") and os.geteuid() == 0)
        self._playwright = sync_playwright().start()
        self._browser: PlaywrightBrowser | None = None
        self._warned = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._browser is not None and self._browser.is_connected():
            self._browser.close()
        self._playwright.stop()

    def _running(self) -> PlaywrightBrowser:
        if self._browser is not None and self._browser.is_connected():
            return self._browser
        from playwright.sync_api import Error  # noqa: PLC0415 - an extra

        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=self._path, headless=True, chromium_sandbox=bool(self.sandbox), args=self._flags()
            )
        except Error as error:
            line = next(
                (x for x in str(error).splitlines() if "sandbox" in x or "ERROR" in x), str(error).split("\n")[0]
            )
            hint = "; without user namespaces add --no-sandbox" if "sandbox" in str(error) else ""
            raise UsageError(f"{self._path} does not start: {line.strip()}{hint}") from error
        processes = self._browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        self._pid = next(int(process["id"]) for process in processes if process["type"] == "browser")
        return self._browser

    def _flags(self) -> list[str]:
        flags = ["--hide-scrollbars", "--force-color-profile=srgb", "--font-render-hinting=none"]
        if "*" in self.allow_hosts:
            return flags
        allowed = sorted(self.allow_hosts)
        return [
            *flags,
            "--host-resolver-rules=" + ", ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {host}" for host in allowed)]),
            "--proxy-server=http://127.0.0.1:9",
            "--proxy-bypass-list=" + ";".join(["<-loopback>", *allowed]),
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
        ]

    @contextmanager
    def page(self, screen: Screen, *, scripts: bool = True, intercept: bool = True) -> Iterator[Page]:
        """A fresh page in a fresh profile, closed afterwards.

        Args:
            scripts: False switches JavaScript off.
            intercept: False for pages that are trusted and opened as file:// URLs: ten times as fast to load.
                The network stays shut, but they can read every file that the user can.
        """
        from playwright.sync_api import Error  # noqa: PLC0415 - an extra

        if intercept and not self.sandbox and not self._warned:
            log.warning("Chromium runs without its sandbox (as it must for root): show it only pages you trust")
            self._warned = True
        context = self._running().new_context(
            viewport={"width": screen.width, "height": screen.height},
            device_scale_factor=screen.scale,
            color_scheme="dark" if screen.theme == "dark" else "light",
            reduced_motion="reduce",
            locale="en-US",
            timezone_id="UTC",
            java_script_enabled=scripts,
            service_workers="block",
            accept_downloads=False,
        )
        try:
            if intercept:
                context.route("**/*", self._answer)
                context.route_web_socket("**/*", lambda socket: socket.close())
            page = context.new_page()
            page.on("dialog", lambda dialog: dialog.dismiss())
            yield page
        finally:
            with suppress(Error):  # after a hang there is nothing left to close
                context.close()

    def _answer(self, route: Route) -> None:
        url = route.request.url
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" == ORIGIN:
            path = file_for_url(self.root, url)
            if path is None:
                route.fulfill(status=404, body="")
            else:
                body = path.read_bytes()
                headers = {"content-type": _type_of(path, body), "access-control-allow-origin": "*"}
                route.fulfill(body=body, headers=headers)
        elif parts.scheme in ("http", "https") and ({"*", parts.hostname} & self.allow_hosts):
            route.continue_()
        else:
            self.refused[parts.hostname or parts.scheme] += 1
            route.abort("blockedbyclient")

    @contextmanager
    def deadline(self, seconds: float, what: str) -> Iterator[None]:
        """Turn what goes wrong with a page in the block into `PageFailed`, and end the browser when it takes longer.

        Nothing else stops a page that loops for ever.

        Args:
            what: names the page in the message.

        Raises:
            PageFailed: time ran out, or Playwright failed.
        """
        from playwright.sync_api import Error, TimeoutError  # noqa: PLC0415 - an extra

        expired = threading.Event()

        def end() -> None:
            expired.set()
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        except Error as error:
            if expired.is_set():
                raise PageFailed(f"{what}: no answer within {seconds:g} s", "page hangs") from error
            late = isinstance(error, TimeoutError)
            raise PageFailed(
                f"{what}: {str(error).splitlines()[0]}", "never finishes loading" if late else "does not load"
            ) from error
        finally:
            timer.cancel()
