"""What every page is checked for in a real Chromium: see `look`."""

from __future__ import annotations

from contextlib import contextmanager

CONTRAST = r"""() => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const shares = [.2126, .7152, .0722];
    const light = (rgb) => rgb.reduce((sum, c, i) => sum + shares[i] * linear(c / 255), 0);
    const parse = (text) => {
        const numbers = text.match(/[\d.]+(e-?\d+)?/g).map(Number);
        return text.startsWith("color(srgb") ? numbers.map((one, at) => at < 3 ? 255 * one : one) : numbers;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = parse(getComputedStyle(e).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const found = {};
    const written = "h1, h2, h3, p, a, b, td, th, li, dt, dd, pre, summary, button, select, label, small, output, " +
        ".chip, .meta, .thought, .token, .axis text";
    for (const element of document.querySelectorAll(written)) {
        if (!element.checkVisibility() || element.closest(".grid, .unseen") || !element.textContent.trim()) continue;
        const style = getComputedStyle(element);
        const ink = parse(element.closest("svg") ? style.fill : style.color).slice(0, 3);
        const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
        const name = element.tagName + "." + (element.getAttribute("class") ?? "");
        found[name] = Math.min(found[name] ?? 99, (a + .05) / (b + .05));
    }
    return found;
}"""
"""The lowest contrast of text to what is behind it, by tag and class; WCAG's AA asks for 4.5."""
SIZES = {"wide": (1400, 900), "narrow": (400, 800)}
LONG = (
    "the small blue button with a white arrow, right of the search field and below the second of the three menus, "
    * 6
)
SECONDS = 2.0  # of the processor, until a page with 5,000 items is there


@contextmanager
def chromium_browser(path):
    """A browser that is closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(path), args=["--no-sandbox"])
        yield browser
        browser.close()


def look(browser, url, ready="body", act=lambda page: None):
    """Open a page wide and narrow, light and dark.

    Nothing may be wider than the window, no text of too little contrast, no error in the console, and no request that
    leaves the machine.

    Args:
        ready: a selector that is there when the page is.
        act: is done with each page before it is looked at.

    Returns:
        Seconds that the processor worked until the page was there, at the quickest: a loaded machine takes longer by
        the clock.
    """
    troubles, took = [], []
    for name, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda request: troubles.append(request.url) if _leaves(request.url) else None)
            meter = context.new_cdp_session(page)
            meter.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(url)
            page.wait_for_selector(ready, state="attached")
            metrics = {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}
            took.append(metrics["ProcessTime"])
            act(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, scheme)
            ratios = page.evaluate(CONTRAST)
            assert ratios
            assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}, (name, scheme)
            context.close()
    assert troubles == []
    return min(took)


def _leaves(url):
    return url.startswith("http") and not url.startswith("http://127.0.0.1:")
