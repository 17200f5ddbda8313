"""The page of `predict.py --serve` in a real Chromium, and what its server refuses."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from benchmarks.harness.predictor import KINDS, Predictor, before_numbers
from data_prep.screens.generated import example
from grounding.answer import Answer, Status
from grounding.errors import UsageError
from grounding.targets import Box, Span
from models.profile import read_profile
from reports.local_page import answer_row, open_server
from tests.pages import LONG, chromium_browser, look

MODEL = str(Path(__file__).parents[1] / "assets" / "fovea-tiny")
TURN = {"text": "I look closer. <zoom>", "tool": "zoom", "region": [0.1, 0.1, 0.4, 0.5], "image": 0,
        "shown": [0.1, 0.1, 0.4, 0.5], "reply": "Here it is.", "error": False}  # fmt: skip
FACTS = {"model": "m", "kinds": KINDS, "kind": "point", "tools": "zoom"}


@contextmanager
def serving(facts, answer):
    server = open_server(0, facts, answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def address():
    """The page of the embedded model, in this process."""
    args = predict.parse(["--model", MODEL, "--serve", "0"])
    facts, answer = predict.page_of(args, Predictor(args, read_profile(MODEL), MODEL))
    with serving(facts, answer) as server:
        assert server.server_address[0] == "127.0.0.1"
        yield f"http://127.0.0.1:{server.server_port}/"


def test_a_picture_is_dropped_asked_about_and_drawn_on(address, chromium, tmp_path):
    sample, image = example(0, seed=0, split="val", difficulty=1, size=96)
    image.save(tmp_path / "shot.png")
    (tmp_path / "notes.png").write_text("no picture")
    troubles = []
    with chromium_browser(chromium) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(address)
        page.keyboard.press("Tab")  # the first stop is the place for pictures
        assert page.evaluate("document.activeElement.id") == "file"
        page.set_input_files("#file", [tmp_path / "shot.png"])
        page.select_option("#kind", "box")
        page.fill("#instruction", sample.instruction)
        page.press("#instruction", "Enter")
        page.wait_for_selector(".asked")
        told = page.inner_text(".asked li >> nth=0")
        pixels = [float(number) for number in told.removeprefix("box ").removesuffix(" (pixels)").split(",")]
        x, y = (pixels[0] + pixels[2]) / 192, (pixels[1] + pixels[3]) / 192
        assert sample.target.x1 < x < sample.target.x2 and sample.target.y1 < y < sample.target.y2
        drawn = page.locator(".asked svg rect.said")
        assert float(drawn.get_attribute("x")) == pytest.approx(pixels[0], abs=0.06)
        size = page.evaluate("(() => { const c = document.querySelector('canvas'); return [c.width, c.height]; })()")
        assert size[0] == size[1] > 1  # image tokens of a square picture
        heat = page.evaluate("""() => { const c = document.querySelector('canvas');
            return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }""")
        assert len(set(heat)) > 10  # not one color
        assert page.is_visible(".asked canvas")
        page.uncheck(".asked input[type=checkbox]")
        assert not page.is_visible(".asked canvas")
        assert "</think>" in page.inner_text(".asked pre")
        page.focus(".asked .over")
        page.keyboard.press("Enter")
        assert page.locator("dialog[open] svg rect").count() >= 1
        page.keyboard.press("Escape")

        page.set_input_files("#file", [tmp_path / "notes.png"])
        page.click("#go")
        page.wait_for_selector("#status.wrong")
        assert "notes.png: not a readable image" in page.inner_text("#status")
        page.click("text=remove >> nth=1")
        page.click("#go")
        page.wait_for_selector(".asked >> nth=1")
    assert troubles == []


def test_the_page_of_turns_images_and_long_words_is_fit_to_look_at(chromium, tmp_path):
    """What tools showed, several images, a small answer, a video's span: wide and narrow, light and dark."""
    image = Image.new("RGB", (800, 500), "white")
    image.save(tmp_path / "a.png")
    tiny = Answer(Status.OK, boxes=(Box(0.5, 0.5, 0.505, 0.51, 1, "the label of it"),), spans=(Span(0, 2),))
    heat = [np.linspace(0, 1, 12).reshape(3, 4)] * 2

    def answer(body):
        assert [file["name"] for file in body["files"]] == ["a.png", "a.png"]
        return answer_row([image, image], LONG, tiny, [TURN, {**TURN, "tool": None}], heat=heat, times=[0, 4])

    def ask(page):
        page.set_input_files("#file", [tmp_path / "a.png"] * 2)
        page.fill("#instruction", LONG)
        page.click("#go")
        page.wait_for_selector(".asked")
        assert page.locator("figure.inside").count() == 1
        assert page.locator(".asked circle.said").count() == 1  # the ring around what a frame would cover
        assert page.locator(".turn-place").count() == 1
        assert page.locator(".turns img").count() == 1 and "Here it is." in page.inner_text(".turns")

    with serving(FACTS, answer) as server, chromium_browser(chromium) as browser:
        look(browser, f"http://127.0.0.1:{server.server_port}/", "#form", ask)


def request(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    given = {"Host": f"127.0.0.1:{server.server_port}", **{key.replace("_", "-"): v for key, v in headers.items()}}
    connection.request(method, path, body, given)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content


def test_the_server_gives_its_page_and_nothing_else():
    asked = []

    def answer(body):
        asked.append(body)
        if body.get("fails"):
            raise body["fails"] if isinstance(body["fails"], Exception) else RuntimeError("out of memory")
        raise UsageError("no such thing")

    with serving(FACTS, answer) as server:
        status, page = request(server, "GET", "/")
        assert status == 200 and b"Drop a picture" in page
        for path in (
            "/etc/passwd",
            "/../../etc/passwd",
            "//etc/passwd",
            "/%2e%2e/predict.py",
            "/index.html",
            "/answer",
        ):
            assert request(server, "GET", path)[0] == 404
        own = f"http://127.0.0.1:{server.server_port}"
        json_type = {"Content_Type": "application/json"}
        assert request(server, "GET", "/", Host="evil.example")[0] == 403  # a name that leads here
        assert request(server, "POST", "/answer", "{}", Origin="http://evil.example", **json_type)[0] == 403
        assert request(server, "POST", "/answer", "{}", Origin="null", **json_type)[0] == 403  # a sandboxed page
        assert request(server, "POST", "/answer", "{}", Content_Type="text/plain")[0] == 400  # a form of another page
        assert request(server, "POST", "/other", "{}", Origin=own, **json_type)[0] == 404
        assert request(server, "POST", "/answer", "", Content_Length=str(1 << 40), **json_type)[0] == 413
        assert asked == []
        status, content = request(server, "POST", "/answer", "{no", Origin=own, **json_type)
        assert status == 400 and b"not JSON" in content
        status, content = request(server, "POST", "/answer", "{}", Origin=own, **json_type)
        assert (status, json.loads(content)) == (400, {"error": "no such thing"})
        status, content = request(server, "POST", "/answer", '{"fails": 1}', Origin=own, **json_type)
        assert status == 500 and b"RuntimeError: out of memory" in content
        assert len(asked) == 2
        with pytest.raises(UsageError, match=f"--serve {server.server_port}: .*give another port"):
            open_server(server.server_port, FACTS, answer)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"files": []}, "there is no image"),
        ({"files": "x"}, "files: a list"),
        ({"files": [{"name": "a.png"}]}, "files: {name, data}"),
        ({"files": [{"name": "a.png", "data": "%"}]}, "files: {name, data}"),
        ({"files": [{"name": "../../x.mp4", "data": "AAAA"}]}, "damaged video"),
    ],
)
def test_a_wrong_question_is_one_line(address, body, said):
    port = int(address.rpartition(":")[2].strip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    told = json.dumps({"instruction": "x", "kind": "box", **body})
    connection.request("POST", "/answer", told, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    assert reply.status == 400 and said in content["error"] and "\n" not in content["error"]


def test_what_belongs_on_the_page_is_refused_on_the_command_line(capsys):
    assert predict.main(["--model", MODEL, "--serve", "0", "--image", "a.png"]) == 2
    assert "--serve: image is given on the page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "span", "before"),
    [
        ('<think>at [1, 2]</think>{"bbox_2d": [469, 203]}', (36, 46), '<think>at [1, 2]</think>{"bbox_2d": ['),
        ("zoom at (12, 13) then [4, 5]", None, "zoom at (12, 13) then ["),
        ("nothing", None, ""),
    ],
)
def test_the_map_is_of_the_moment_before_the_first_number(text, span, before):
    assert before_numbers(text, span) == before
