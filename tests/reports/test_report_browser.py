"""The page in a real Chromium: it renders, nothing is logged as an error, and its controls do what they say."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reports.page import build
from tests.pages import CONTRAST

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `web`: pip install -e .[web]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Open a report offline; the page's errors and its requests end the test."""
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    troubles = []

    def open_(path):
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield open_
    context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def report(shared_workshop):
    return build(shared_workshop.run())


def visible(page):
    return page.locator(".card:visible").count()


def test_screens_filter_by_verdict_group_and_words(open_page, report):
    page = open_page(report)
    assert visible(page) == 60
    page.select_option("[name=verdict]", "wrong")
    assert visible(page) == 15
    page.select_option("[name='group:objects']", "3")
    assert visible(page) == 5  # of 45 ... 59 those with index % 3 == 1
    assert page.inner_text("#filters output") == "5 of 60 shown"
    page.fill("[name=words]", "number 46")
    assert visible(page) == 1


def test_the_furthest_off_comes_first(open_page, report):
    page = open_page(report)
    off = page.eval_on_selector_all(".card .answer[data-of='2']", "all => all.map(a => Number(a.dataset.off))")
    assert off == sorted(off, reverse=True)
    page.select_option("[name=order]", "file")
    assert page.inner_text(".card .note").startswith("q0 ")


def test_two_models_beside_each_other(open_page, report):
    page = open_page(report)
    page.select_option("[name=beside]", "0")
    page.select_option("[name=verdict]", "gained")
    assert visible(page) == 33
    first = page.locator(".card:visible").first
    assert first.locator(".answer:visible .chip.right, .answer:visible .chip.wrong").count() == 2


def test_pictures_and_curves_are_really_drawn(open_page, report):
    page = open_page(report)
    red = page.evaluate(
        """async () => {
            const image = new Image();
            image.src = document.querySelector("#picture-0").getAttribute("href");
            await image.decode();
            return image.naturalWidth;
        }"""
    )
    assert red == 96
    curve = page.locator("figure:has-text('Reward in training') path.curve")
    box = curve.bounding_box()
    assert box["width"] > 200
    assert box["height"] > 50


def test_the_pointer_reads_a_curve(open_page, report):
    page = open_page(report)
    chart = page.locator("figure:has(figcaption:text-is('Loss')) svg").first
    chart.hover()
    assert "training:" in page.locator("figure:has(figcaption:text-is('Loss')) output").first.inner_text()


def test_a_screen_can_be_enlarged_with_the_keyboard(open_page, report):
    page = open_page(report)
    page.locator(".zoom:visible").first.press("Enter")
    assert page.locator("dialog[open] svg").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_nothing_is_wider_than_the_screen(open_page, shared_workshop):
    page = open_page(build(shared_workshop.run("a"), shared_workshop.run("b")))
    for width in (360, 768, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_text_runs_nothing(open_page, workshop):
    run = workshop.run()
    text = '"><script>window.stolen = 1</script><svg onload="window.stolen = 2">'
    workshop.evaluation(run, "grpo", [workshop.result(0, False, thought=text, instruction=text)])
    page = open_page(build(run))
    assert page.evaluate("window.stolen === undefined")
    assert text in page.inner_text(".card:visible h3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(open_page, report, scheme):
    page = open_page(report)
    page.emulate_media(color_scheme=scheme)
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 10
    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


HOSTILE = """<!doctype html><meta http-equiv="refresh" content="1; url={url}/refresh">
<img src="{url}/image"><link rel="stylesheet" href="{url}/style"><script src="{url}/script"></script><script>
fetch("{url}/fetch").catch(() => 0); navigator.sendBeacon("{url}/beacon");
try {{ new WebSocket("{url}/socket".replace("http", "ws")) }} catch (error) {{}}
new Image().src = "{url}/picture"; setTimeout(() => {{ location = "{url}/location" }}, 50);
</script><form action="{url}/form"></form><script>document.forms[0].submit()</script>"""


def test_an_embedded_page_runs_but_sends_nothing(browser, workshop):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    run = workshop.run()
    (run / "attention").mkdir()
    (run / "attention/q46.html").write_text(HOSTILE.format(url=f"http://127.0.0.1:{server.server_port}"))
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    try:
        page.goto(build(run).as_uri())
        page.locator("iframe").first.scroll_into_view_if_needed()
        for _ in range(60):
            page.wait_for_timeout(500)
            if any("/fetch" in line for line in said):
                break
        page.wait_for_timeout(2000)
    finally:
        page.close()
        server.shutdown()
        server.server_close()
    # What its script wrote may be lost when the page is left at once; that its request was refused is not.
    assert any("/fetch" in line for line in said), said
    assert asked == []
