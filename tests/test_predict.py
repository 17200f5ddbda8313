"""One image, one instruction, one drawn answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data_prep.screens.generated import example
from grounding.answer import Answer, ImageSize, Status
from grounding.dialects import get_dialect
from grounding.targets import Box, Point, Span
from predict import main
from reports.answer_drawing import ANSWER_COLOR, TURN_COLOR, draw_answer
from tests.rewards.serving import chat, serve

MODEL = Path(__file__).parents[1] / "assets" / "fovea-tiny"


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    sample, image = example(0, seed=0, split="val", difficulty=1, size=96)
    path = tmp_path_factory.mktemp("screen") / "shot.png"
    image.save(path)
    return sample, path


def test_the_answer_is_told_in_pixels_and_drawn(screen, tmp_path, capsys):
    sample, path = screen
    command = ["--model", str(MODEL), "--kind", "box", "--image", str(path), "--out", str(tmp_path / "a.png")]
    assert main([*command, "--json", sample.instruction]) == 0
    told = json.loads(capsys.readouterr().out)
    (region,) = told["regions"]
    x1, y1, x2, y2 = (round(value) for value in region["pixels"])
    assert region["kind"] == "box" and told["status"] == "ok" and "</think>" in told["output"]
    assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96
    drawn, before = Image.open(told["drawing"]), Image.open(path).convert("RGB")
    assert drawn.size == before.size == (96, 96)
    assert drawn.getpixel((x1, (y1 + y2) // 2)) == ANSWER_COLOR
    outside = (95, 95) if x2 < 90 or y2 < 90 else (0, 0)
    assert drawn.getpixel(outside) == before.getpixel(outside)
    target = sample.target
    center = ((x1 + x2) / 192, (y1 + y2) / 192)
    assert target.x1 < center[0] < target.x2 and target.y1 < center[1] < target.y2, "the easiest screens are known"

    before = (tmp_path / "a.png").read_bytes()
    assert main([*command, sample.instruction]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


def test_several_images_stand_side_by_side(screen):
    image = Image.open(screen[1]).convert("RGB")
    answer = Answer(Status.OK, boxes=(Box(0.25, 0.25, 0.5, 0.5, 1),), points=(Point(0.5, 0.5, 0),))
    drawn = draw_answer([image, image], answer)
    assert drawn.size == (192, 96)
    assert drawn.getpixel((96 + 24, 36)) == ANSWER_COLOR, "the box lies in the second image"
    assert drawn.getpixel((48 + 6, 48)) == ANSWER_COLOR, "the point in the first"
    assert drawn.getpixel((24, 36)) == image.getpixel((24, 36))
    assert draw_answer([image], Answer(Status.NO_ANSWER)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--image": "nowhere.png"}, "--image nowhere.png: no such file"),
        ({"--image": __file__}, "not an image"),
        ({"--model": "assets/fovea-tinny"}, "no such folder"),
        ({"--dialect": "qwen4"}, "qwen4"),
        ({"--kind": "circle"}, "circle"),
    ],
)
def test_a_wrong_request_is_one_line(changes, said, screen, tmp_path, capsys):
    options = {"--model": str(MODEL), "--image": str(screen[1]), "--out": str(tmp_path / "a.png"), **changes}
    assert main([*(word for pair in options.items() for word in pair), "Click Save"]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_a_video_is_asked_about_behind_an_endpoint(tmp_path, capsys):
    """Its frames go with their seconds; the answer's span is told and framed on a sheet of frames."""
    pytest.importorskip("av", reason="needs the extra `video`")
    from tests.data_prep.test_clips import encode

    clip = encode(tmp_path / "clip.mp4", 100)  # four seconds
    said = get_dialect("qwen2_5_vl").render(Span(1.0, 2.5), [ImageSize(64, 48)])
    command = ["--model", "m", "--dialect", "qwen2_5_vl", "--max-pixels", "50000", "--video", str(clip)]
    with serve(chat(said)) as server:
        out = tmp_path / "a.png"
        given = [*command, "--endpoint", server.url, "--fps", "2", "--out", str(out), "--json", "the door opens"]
        assert main(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["spans"] == [[1.0, 2.5]] and told["regions"] == [] and told["drawing"] == str(out)
    content = server.requests[0]["body"]["messages"][-1]["content"]
    frames = sum(part["type"] == "image_url" for part in content)
    words = "".join(part.get("text", "") for part in content)
    assert frames == 8 and "the door opens" in words and "0.5" in words
    sheet = Image.open(out)
    assert sheet.width > sheet.height  # six frames in a row
    red = [x for x in range(sheet.width) if sheet.getpixel((x, 24)) == ANSWER_COLOR]
    assert red  # the frames within the span have a border


def test_turns_are_told_and_drawn(tmp_path):
    image = Image.new("RGB", (400, 200), "white")
    turns = [
        {"text": "zoom", "tool": "zoom", "region": [0.5, 0, 1, 0.5], "image": 0, "shown": [0.5, 0, 1, 0.5],
         "reply": "", "error": False},
        {"text": "there", "tool": None, "region": None, "image": 0, "shown": None, "reply": "", "error": False},
    ]  # fmt: skip
    answer = Answer(Status.OK, boxes=(Box(0.1, 0.1, 0.3, 0.3),))
    drawn = draw_answer([image], answer, turns)
    assert drawn.width >= 400 and drawn.height > 300  # the picture, and below it what was shown
    assert drawn.getpixel((300, 99)) == TURN_COLOR and drawn.getpixel((40, 40)) == ANSWER_COLOR
