"""The browser sees its folder and nothing else, and a page that hangs does not hang us."""

import http.server
import sys
import threading

import pytest

from data_prep.web import browser as module
from data_prep.web.browser import ORIGIN, Browser, PageFailed, Screen, file_for_url, find_chromium, url_for_file
from grounding.errors import UsageError

SCREEN = Screen(320, 240)


def test_named_chromium_must_exist(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        find_chromium(tmp_path / "chromium")


def test_without_chromium_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module, "CHROMIUM_PLACES", ())
    with pytest.raises(UsageError, match="apt install chromium"):
        find_chromium()


def test_without_playwright_the_message_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(UsageError, match=r"pip install -e .\.\[web\]"), Browser(tmp_path):
        pass


def test_urls_name_files_inside_the_folder_only(tmp_path):
    root = tmp_path / "site"
    (root / "a b").mkdir(parents=True)
    page = root / "a b" / "index.html"
    page.write_text("x")
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    (root / "link.txt").symlink_to(secret)
    assert file_for_url(root, url_for_file(root, page)) == page
    assert file_for_url(root, f"{ORIGIN}/a%20b/") == page
    for outside in ("/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "/%00", "/missing", "/" + "x" * 5000):
        assert file_for_url(root, ORIGIN + outside) is None


@pytest.fixture
def listener():
    """A web server on this machine that notes every request it gets."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], seen
    server.shutdown()
    server.server_close()


PROBE = """<meta http-equiv="refresh" content="60;url=http://127.0.0.1:{port}/refresh">
<link rel="prefetch" href="http://127.0.0.1:{port}/prefetch">
<img src="http://127.0.0.1:{port}/image"><iframe src="http://127.0.0.1:{port}/frame"></iframe>
<script>
  const socket = new WebSocket('ws://127.0.0.1:{port}/socket'); socket.onerror = () => null;
  navigator.sendBeacon('http://127.0.0.1:{port}/beacon', 'x');
  fetch('data.json').then(r => r.json()).then(d => fetch('http://127.0.0.1:{port}/fetch').then(
    () => document.title = 'leaked', () => document.title = d.word));
</script>"""


@pytest.mark.slow
def test_pages_reach_their_folder_and_no_network(tmp_path, listener, chromium):
    port, seen = listener
    (tmp_path / "page.html").write_text(PROBE.replace("{port}", str(port)))
    (tmp_path / "data.json").write_text('{"word": "inside"}')
    with Browser(tmp_path, executable=chromium) as browser:
        with browser.page(SCREEN) as page:
            page.goto(f"{ORIGIN}/page.html")
            page.wait_for_function("() => document.title !== ''")
            assert page.title() == "inside"
            page.wait_for_timeout(300)
        assert seen == []
        assert browser.refused["127.0.0.1"] >= 3


@pytest.mark.slow
def test_a_named_host_can_be_reached(tmp_path, listener, chromium):
    port, seen = listener
    named = frozenset({"127.0.0.1"})
    with Browser(tmp_path, executable=chromium, allow_hosts=named) as browser, browser.page(SCREEN) as page:
        page.goto(f"http://127.0.0.1:{port}/hello")
    assert "/hello" in seen


@pytest.mark.slow
def test_a_page_that_loops_for_ever_is_ended_and_the_next_one_works(tmp_path, chromium):
    (tmp_path / "loop.html").write_text("<script>setTimeout(() => { while (true); }, 50)</script>")
    (tmp_path / "good.html").write_text("<title>good</title>")
    with Browser(tmp_path, executable=chromium) as browser:
        with pytest.raises(PageFailed, match=r"loop: no answer within 3 s") as failed, browser.page(SCREEN) as page:
            page.goto(f"{ORIGIN}/loop.html")
            with browser.deadline(3, "loop"):
                page.wait_for_timeout(500)
                page.evaluate("() => 1")
        assert failed.value.reason == "page hangs"
        with browser.page(SCREEN) as page:
            page.goto(f"{ORIGIN}/good.html")
            assert page.title() == "good"


@pytest.mark.slow
def test_what_goes_wrong_with_a_page_is_one_line_with_a_reason(tmp_path, chromium):
    with Browser(tmp_path, executable=chromium) as browser, browser.page(SCREEN) as page:
        with (
            pytest.raises(PageFailed, match=r"^blocked: .*ERR_BLOCKED_BY_CLIENT") as failed,
            browser.deadline(9, "blocked"),
        ):
            page.goto("http://example.com/")
        assert failed.value.reason == "does not load"
        assert "\n" not in str(failed.value)
        with pytest.raises(PageFailed) as failed, browser.deadline(9, "late"):
            page.wait_for_function("() => false", timeout=50)
        assert failed.value.reason == "never finishes loading"
