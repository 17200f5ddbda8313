"""Thoughts: every form passes its own checks, bad ones are named, a bad endpoint cannot spoil a run."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import SOURCES
from data_prep.cot.forms import FORMS
from data_prep.cot.teacher import Settings, Teacher, in_order
from data_prep.cot.thoughts import messages
from data_prep.cot.verify import Copies, verify
from data_prep.pipeline.conversations import canonical
from data_prep.pipeline.conversion import Rejected
from data_prep.pipeline.writer import run
from grounding.answer import ImageSize
from grounding.dialects import get_dialect
from grounding.errors import FoveaError, UsageError
from grounding.io import read_samples, write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Boxes, Point, Polygon, Span, TextBox
from grounding.wording import read_places
from models.chat_client import RequestLimits
from tests.data_prep.helpers_data import parse, picture

BOX = Box(0.5, 0.5, 0.75, 0.75)


def a_sample(target=BOX, instruction="the red mug", number=0) -> Sample:
    image = ImageRef(f"images/{number}.png", 100, 50)
    return Sample(f"s{number}", (image,), instruction, target, "made", "CC0-1.0")


UNIT = st.floats(0, 1)
REGION = st.one_of(
    st.builds(lambda a, b, c, d: Box(min(a, b), min(c, d), max(a, b), max(c, d)), UNIT, UNIT, UNIT, UNIT).filter(
        lambda box: box.x2 - box.x1 > 0.005 and box.y2 - box.y1 > 0.005
    ),
    st.builds(Point, UNIT, UNIT),
)
TARGET = st.one_of(
    REGION,
    st.lists(REGION.filter(lambda r: isinstance(r, Box)), min_size=1, max_size=3).map(lambda r: Boxes(tuple(r))),
    st.just(Absent()),
    st.just(Span(1.0, 2.0)),
    st.just(Polygon(((0.1, 0.1), (0.4, 0.1), (0.2, 0.5)))),
    REGION.filter(lambda r: isinstance(r, Box)).map(lambda r: TextBox("42", (r,))),
)


@settings(max_examples=80, deadline=None)
@given(TARGET, st.sampled_from(sorted(FORMS)), st.integers(0, 3))
def test_every_template_passes_its_own_checks(target, form, seed):
    sample = a_sample(target)
    verify(FORMS[form].template(sample, random.Random(seed)), sample, FORMS[form])


GOOD = "I look for the red mug. On the table near [0.600, 0.600] there is one, at [0.500, 0.500, 0.750, 0.750]."


@pytest.mark.parametrize(
    ("thought", "reason"),
    [
        ("red mug", "thought too short"),
        ("mug " * 500, "thought too long"),
        ("the red mug \x00 is at the table", "thought has control characters"),
        (GOOD + "</think>", "leaks the answer format"),
        (GOOD + ' {"bbox_2d": [1, 2, 3, 4]}', "leaks the answer format"),
        ("As the provided box says, " + GOOD, "leaks the answer format"),
        ("The ground truth puts the mug here. " + GOOD, "leaks the answer format"),
        (GOOD.replace("red mug", "thing"), "does not name the target"),
        (GOOD.replace("[0.600, 0.600]", "[600, 600]"), "unreadable place"),
        (GOOD.replace("[0.600, 0.600]", "(320, 240)"), "unreadable place"),
        (GOOD.replace("near [0.600, 0.600]", "there"), "too few places"),
        (GOOD.replace("[0.500, 0.500, 0.750, 0.750]", "[0.100, 0.100, 0.300, 0.300]"), "does not meet the target"),
        (
            GOOD.replace("[0.500, 0.500, 0.750, 0.750]", "image 2 [0.500, 0.500, 0.750, 0.750]"),
            "place in a missing image",
        ),
    ],
)
def test_bad_thoughts_are_named(thought, reason):
    with pytest.raises(Rejected) as error:
        verify(thought, a_sample(), FORMS["grounded"])
    assert error.value.reason == reason


def test_good_thought_and_copies():
    verify(GOOD, a_sample(), FORMS["grounded"])
    verify(GOOD.replace("[0.500, 0.500, 0.750, 0.750]", "[0.620, 0.620]"), a_sample(), FORMS["grounded"])
    with pytest.raises(Rejected, match="places in a thought without"):
        verify(GOOD, a_sample(), FORMS["free"])
    copies = Copies()
    copies.check(GOOD)
    with pytest.raises(Rejected, match="copy"):
        copies.check(GOOD.upper() + "  ")
    copies.check(GOOD.replace("0.600", "0.610"))


def test_numbers_of_a_model_become_canonical():
    said = "Near (250, 500) there is it: [500, 500, 750, 750]; 3 of [many]."
    written = canonical(said, get_dialect("qwen3_vl"), [ImageSize(100, 50)])
    assert written == "Near [0.250, 0.500] there is it: [0.500, 0.500, 0.750, 0.750]; 3 of [many]."
    assert read_places(written) == (Point(0.25, 0.5), BOX)


class Endpoint:
    """A local chat endpoint whose behavior a test writes: `script(n, body) -> (status, headers, bytes) | "drop"`."""

    def __init__(self, script):
        self.bodies, self.lock, self.active, self.most = [], threading.Lock(), 0, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append((body, dict(self.headers), time.monotonic()))
                    number = len(outer.bodies)
                    outer.active += 1
                    outer.most = max(outer.most, outer.active)
                answer = script(number, body)
                with outer.lock:
                    outer.active -= 1
                self.close_connection = True
                if answer == "drop":
                    return
                status, headers, content = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


def said(text, given=100, taken=20):
    reply = {
        "choices": [{"message": {"content": text}}],
        "usage": {"prompt_tokens": given, "completion_tokens": taken},
    }
    return 200, {}, json.dumps(reply).encode()


def settings_for(url, **more):
    waits = {name: more.pop(name) for name in ("timeout", "retries", "per_minute") if name in more}
    return Settings(url=url, model="m", limits=RequestLimits(**{"timeout": 5, "backoff": 0.01, **waits}), **more)


def test_teacher_gets_past_a_server_that_misbehaves(tmp_path):
    bad = [
        "drop",
        (429, {"Retry-After": "0"}, b"slow down"),
        (500, {}, b"oops"),
        (200, {}, b"<html>not json"),
        (200, {}, b'{"choices": []}'),
        (200, {}, json.dumps({"choices": [{"message": {"content": None}}]}).encode()),
        (200, {}, b"[" * 100_000),
    ]
    with Endpoint(lambda n, body: bad[n - 1] if n <= len(bad) else said("fine")) as server:
        teacher = Teacher(settings_for(server.url, retries=len(bad)), tmp_path / "c.sqlite")
        assert teacher.ask([{"role": "user", "content": "x"}]) == "fine"
        assert teacher.ask([{"role": "user", "content": "x"}]) == "fine"
        assert (teacher.client.spent.asked, teacher.client.spent.kept, len(server.bodies)) == (1, 1, len(bad) + 1)
        teacher.close()


@pytest.mark.parametrize("apart", [True, False])
def test_a_teachers_own_thought_is_not_its_reply(tmp_path, apart):
    own = {"content": "fine", "reasoning": "hm"} if apart else {"content": "<think>hm</think>fine"}
    endless = {"content": None, "reasoning": "hm"} if apart else {"content": "<think>hm"}

    def script(n, body):
        return 200, {}, json.dumps({"choices": [{"message": own if body["seed"] == 0 else endless}]}).encode()

    with Endpoint(script) as server:
        teacher = Teacher(settings_for(server.url, max_tokens=9), tmp_path / "c.sqlite")
        assert teacher.ask([{"role": "user", "content": "x"}]).strip() == "fine"
        with pytest.raises(Rejected, match="still thinking after 9 tokens; give --max-tokens more"):
            teacher.ask([{"role": "user", "content": "x"}], 1)
        teacher.close()


def test_teacher_gives_up_on_a_row_but_not_on_the_run(tmp_path):
    with Endpoint(lambda n, body: (503, {}, b"")) as server:
        teacher = Teacher(settings_for(server.url, retries=2), tmp_path / "c.sqlite")
        with pytest.raises(Rejected, match="teacher failed"):
            teacher.ask([{"role": "user", "content": "x"}])
        assert len(server.bodies) == 3
        teacher.close()


def test_a_wrong_key_stops_at_once_and_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "s3cret")
    with Endpoint(lambda n, body: (401, {}, b"key s3cret is wrong")) as server:
        teacher = Teacher(settings_for(server.url, key_variable="TEACHER_KEY"), tmp_path / "c.sqlite")
        with pytest.raises(FoveaError, match="HTTP 401") as error:
            teacher.ask([{"role": "user", "content": "x"}])
        assert "s3cret" not in str(error.value) and len(server.bodies) == 1
        assert server.bodies[0][1]["Authorization"] == "Bearer s3cret"
        assert b"s3cret" not in (tmp_path / "c.sqlite").read_bytes()
        teacher.close()
    with pytest.raises(UsageError, match="NO_SUCH"):
        Teacher(settings_for("http://x", key_variable="NO_SUCH"), tmp_path / "d.sqlite")


def test_a_server_that_drips_for_ever_is_left(tmp_path):
    def drip(n, body):
        time.sleep(1.0)
        return said("late")

    with Endpoint(drip) as server:
        teacher = Teacher(settings_for(server.url, retries=0, timeout=0.2), tmp_path / "c.sqlite")
        start = time.monotonic()
        with pytest.raises(Rejected, match="teacher failed"):
            teacher.ask([{"role": "user", "content": "x"}])
        assert time.monotonic() - start < 0.9
        teacher.close()


def test_rate_limit_holds_back_the_next_minute(tmp_path, monkeypatch):
    from models import chat_client as module

    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    teacher = Teacher(settings_for("http://127.0.0.1:9", per_minute=3), tmp_path / "c.sqlite")
    started = []
    for _ in range(7):
        teacher.client.wait_for_slot()
        started.append(clock[0])
        clock[0] += 1
    assert started[:3] == [0, 1, 2] and started[3:6] == pytest.approx([60, 61, 62]) and started[6] >= 120
    teacher.close()


def test_results_come_in_order_and_not_all_at_once():
    ahead, lock = [0, 0], threading.Lock()

    def work(n):
        time.sleep(0.002 * (7 - n % 7))
        return n * n

    def items():
        for n in range(40):
            with lock:
                ahead[0] += 1
            yield n

    for n, (item, result) in enumerate(in_order(work, items(), 4)):
        assert (item, result) == (n, n * n)
        ahead[1] = max(ahead[1], ahead[0] - n)
    assert ahead[1] <= 9


def dataset(root, count=12):
    root.mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for n in range(count):
        (root / "images" / f"{n}.png").write_bytes(picture(100, 50))
    write_samples(
        root / "train.jsonl", [a_sample(instruction=f"the red mug number{n}", number=n) for n in range(count)]
    )
    return root


def good(body):
    text = body["messages"][0]["content"][-1]["text"]
    name = text.split('"')[1]
    return f"I look for {name}. Near [0.600, 0.600] is one, at [0.500, 0.500, 0.750, 0.750]."


def test_cot_with_a_teacher(tmp_path):
    """Rows whose first thought is bad get a second; replies are kept, counted, and never asked for again."""

    def script(n, body):
        text = body["messages"][0]["content"][-1]["text"]
        number = int(text.split("number")[1].split('"')[0])
        if number == 3:
            return said("<answer>leak</answer> of the red mug number3 here")
        if number % 2 and body["seed"] == 0:
            return said("too short")
        return said(good(body), given=1000, taken=50)

    dataset(tmp_path / "in")
    with Endpoint(script) as server:
        flags = (
            "--form",
            "grounded",
            "--teacher",
            server.url,
            "--model",
            "m",
            "--parallel",
            "3",
            "--prices",
            "1",
            "10",
        )
        args = parse("cot", tmp_path / "in", tmp_path / "out", *flags)
        manifest = run(SOURCES.get("cot"), args)
        assert manifest["rows"] == {"train": 11} and manifest["rejects"] == {"leaks the answer format": 1}
        assert server.most <= 3 and len(server.bodies) == 12 + 6
        image = server.bodies[0][0]["messages"][0]["content"][0]["image_url"]["url"]
        assert image.startswith("data:image/png;base64,")
        rows = list(read_samples(tmp_path / "out/train.jsonl"))
        assert [row.id for row in rows] == [f"s{n}" for n in range(12) if n != 3]
        assert rows[1].thought.startswith("I look for the red mug number1.")
        cost = json.loads((tmp_path / "out.replies.cost.json").read_text())
        # 11 good replies of 1000 + 50 tokens, 7 bad ones of 100 + 20
        assert cost == {"replies": 18, "input_tokens": 11700, "output_tokens": 690, "cost": 0.0186}
        run(SOURCES.get("cot"), parse("cot", tmp_path / "in", tmp_path / "again", *flags, "--cache",
                                      str(tmp_path / "out.replies.sqlite")))  # fmt: skip
        assert len(server.bodies) == 18
        assert (tmp_path / "again/train.jsonl").read_bytes() == (tmp_path / "out/train.jsonl").read_bytes()


def test_cot_from_templates_and_from_the_policy(tmp_path):
    dataset(tmp_path / "in", 4)
    spec = SOURCES.get("cot")
    manifest = run(spec, parse("cot", tmp_path / "in", tmp_path / "t", "--form", "region"))
    assert manifest["rows"] == {"train": 4}
    think = "<think>I look for the red mug number{}, near [600, 600], so at [500, 500, 750, 750].</think>\n{}"
    right, wrong = '{"bbox_2d": [500, 500, 750, 750]}', '{"bbox_2d": [0, 0, 100, 100]}'
    lines = [
        {"id": "s0", "completion": think.format(0, wrong)},
        {"id": "s0", "output": think.format(0, right)},
        {"id": "s1", "completion": think.format(1, wrong)},
        {"id": "s2", "completion": right},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--form", "grounded", "--completions", str(tmp_path / "r.jsonl"))
    manifest = run(spec, parse("cot", tmp_path / "in", tmp_path / "p", *flags))
    assert manifest["rejects"] == {"wrong answer": 1, "no thought": 2}
    (row,) = read_samples(tmp_path / "p/train.jsonl")
    assert row.thought.endswith("near [0.600, 0.600], so at [0.500, 0.500, 0.750, 0.750].")


def test_the_request_shows_the_place_and_asks_for_the_form(tmp_path):
    args = parse("cot", dataset(tmp_path / "in", 1), tmp_path / "o", "--form", "knowledge", "--no-image")
    (message,) = messages(a_sample(), args)
    (part,) = message["content"]
    assert "[0.500, 0.500, 0.750, 0.750]" in part["text"] and "recall the knowledge" in part["text"]


@pytest.mark.parametrize("asked", ["Locate the red mug.", "red mug", 'Click "Red Mug".', "Where is the red mug?"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_templates_are_sentences(form, asked):
    boxes = Boxes((Box(0.1, 0.1, 0.2, 0.2), Box(0.7, 0.7, 0.9, 0.9)))
    for target in (BOX, boxes, Absent(), TextBox("yes", ())):
        sample = replace(a_sample(target), instruction=asked)
        thought = FORMS[form].template(sample, random.Random(0))
        verify(thought, sample, FORMS[form])
        assert "Locate" not in thought and "Where" not in thought and '""' not in thought and thought[-1] == "."


def test_a_region_holds_all_its_targets():
    boxes = Boxes((Box(0.1, 0.1, 0.2, 0.2), Box(0.7, 0.7, 0.8, 0.8)))
    wide, *targets = read_places(FORMS["region"].template(a_sample(boxes), random.Random(0)))
    assert len(targets) == 2
    assert all(wide.x1 <= t.x1 and wide.y1 <= t.y1 and wide.x2 >= t.x2 and wide.y2 >= t.y2 for t in targets)


def test_the_teacher_is_told_the_answer_in_words(tmp_path):
    args = parse("cot", tmp_path, tmp_path / "o", "--no-image")
    for target, told in (
        (Absent(), "It is not there."),
        (Span(1, 2.5), "It lasts from 1.0 s to 2.5 s."),
        (TextBox("42", ()), 'The answer is "42".'),
    ):
        (message,) = messages(a_sample(target), args)
        assert told in message["content"][0]["text"]
