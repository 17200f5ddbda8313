"""The attention viewer in a real Chromium, and the description of heads, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attention.heads import ROLES, HeadSelection
from credit.__main__ import main
from tests.pages import look
from tests.recipes.tiny import make_data, make_model

RESPONSE = '<think>The red square is there. It is red.</think>{"bbox_2d": [104, 205, 306, 407]}'
PIXELS = """() => [...document.querySelectorAll('canvas')].flatMap(canvas =>
  [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data])"""
ALPHA = """() => [...document.querySelectorAll('canvas')].flatMap(canvas =>
  [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 3))"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("show")
    data = make_data(folder / "data", count=4)
    return str(make_model(folder / "model", "qwen3_vl")), str(data / "train.jsonl")


@pytest.fixture(scope="module")
def page_file(places: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    model, data = places
    command = ["show", "--model", model, "--data", data, "--grammar", "think", "--horizon", "1", "9"]
    assert main([*command, "--response", RESPONSE, "--sample", "square-1", "--out", str(out)]) == 0
    return out


def test_the_heat_map_follows_the_cursor(page_file: Path, chromium: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    troubles: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800})
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.goto(page_file.as_uri())
        tokens = page.locator(".token")
        assert "".join(tokens.all_text_contents()) == RESPONSE
        default = page.evaluate(PIXELS)  # the mean over the answer's numbers
        assert len(set(default)) > 5
        maps = []
        for at in (0, tokens.count() - 3):
            tokens.nth(at).hover()
            maps.append(page.evaluate(PIXELS))
            assert page.locator("#facts tr").count() > 3
        assert maps[0] != maps[1] and default not in maps
        before = page.screenshot()
        page.mouse.move(2, 2)
        assert page.evaluate(PIXELS) == default
        assert page.screenshot() != before
        tokens.first.focus()  # the keyboard does the same, from token to token
        assert page.evaluate(PIXELS) == maps[0]
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.at") == "1"
        assert page.evaluate(PIXELS) not in (maps[0], default)
        page.uncheck("#heat")
        assert set(page.evaluate(ALPHA)) == {0}
        tints = "() => [...document.querySelectorAll('.token')].map(token => token.style.getPropertyValue('--share'))"
        first = page.evaluate(tints)
        names = page.eval_on_selector_all("#signal option", "all => all.map(one => one.value)")
        assert "share of its attention on the image (image_mass)" in page.inner_text("#signal")
        assert {"waad", "fai", "image_mass", "entropy"} <= set(names)
        page.select_option("#signal", "entropy" if names[0] != "entropy" else names[1])
        assert page.evaluate(tints) != first
        assert page.locator(".text .coordinate").count() > 0 and page.locator(".text .anchor").count() > 0
        target, answer = page.locator("svg rect.truth"), page.locator("svg rect.said")
        assert [target.count(), answer.count()] == [1, 1]
        sides = [float(answer.get_attribute(name)) for name in ("x", "y", "width", "height")]
        assert sides == pytest.approx([0.104 * 96, 0.205 * 96, 0.202 * 96, 0.202 * 96], abs=0.01)
        look(browser, page_file.as_uri(), ".token")
        browser.close()
    assert "/tmp" not in page_file.read_text() and str(page_file.parent) not in page_file.read_text()
    assert troubles == []


def test_describe_prints_heads_and_strategies(places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = places
    command = ["describe", "--model", model, "--data", data, "--grammar", "think", "--horizon", "1", "9"]
    assert main([*command, "--limit", "3", "--batch-size", "2", "--max-new-tokens", "12"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("3 responses of ")
    for wanted in ("| 0.0 | ", "| 1.0 | ", "local", "global", "image", "| `random` | ", "| `coupled_rhythm` | "):
        assert wanted in text
    assert "vppo" not in text and "`uniform`" not in text


def test_a_folder_gets_a_page_for_each_sample(
    places: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = places
    command = ["show", "--model", model, "--data", data, "--response", RESPONSE, "--horizon", "1", "9"]
    assert main([*command, "--sample", "square-2", "square-0", "--out", str(tmp_path / "attention")]) == 0
    assert {page.name for page in (tmp_path / "attention").iterdir()} == {"square-0.html", "square-2.html"}
    assert main([*command, "--limit", "2", "--out", str(tmp_path / "first")]) == 0
    assert {page.stem for page in (tmp_path / "first").iterdir()} == {"square-0", "square-1"}
    assert main([*command, "--limit", "2", "--out", str(tmp_path / "page.html")]) == 2
    assert main([*command, "--sample", "square-0", "circle-7", "--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "2 samples need a folder" in said and "no sample 'circle-7'" in said
    assert not (tmp_path / "none").exists()


def test_heads_of_a_file_are_read_in_their_own_layers(places: Any, tmp_path: Path) -> None:
    """The middle layers of the model are both of its two; a file that names one must not be averaged over both."""
    model, data = places
    roles = dict.fromkeys(ROLES, ((1, 0),))
    HeadSelection(roles).save(tmp_path / "heads.json")
    command = ["show", "--model", model, "--data", data, "--response", RESPONSE, "--horizon", "1", "9"]
    assert main([*command, "--heads", str(tmp_path / "heads.json"), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "local 1.0; global 1.0; image 1.0; receiver 1.0" in page
    options = ["--heads", str(tmp_path / "heads.json"), "--layers", "0", "--out", str(tmp_path / "other.html")]
    assert main([*command, *options]) == 2


def test_a_system_message_comes_before_the_question(places: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = places
    asked: list[int] = []
    monkeypatch.setattr(
        "credit.inspection.Describer.add", lambda self, inputs, *rest: asked.append(inputs["input_ids"])
    )
    monkeypatch.setattr("credit.inspection.Describer.result", lambda self: None)
    monkeypatch.setattr("credit.inspection.table", lambda result: "")
    command = ["describe", "--model", model, "--data", data, "--limit", "1", "--max-new-tokens", "1"]
    for options in ([], ["--system", "The red square is there."]):
        assert main([*command, *options]) == 0
    plain, told = asked
    assert told.shape[1] > plain.shape[1]


def test_a_missing_dialect_is_one_line(places: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, data = places
    (tmp_path / "config.json").write_text("{}")
    assert main(["describe", "--model", str(tmp_path), "--data", data]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: which coordinates does it answer in?")
