"""An answer in several turns on the report's page: the region asked for, what was shown, what was said."""

from __future__ import annotations

import base64
import io

from PIL import Image

from reports.gallery import gallery
from reports.page import render
from reports.places import Shape
from reports.read_run import read_run

TURNS = [
    {
        "text": '<think>There.</think>\nzoom({"bbox_2d": [250, 0, 750, 500]})',
        "tool": "zoom",
        "region": [0.25, 0.0, 0.75, 0.5],
        "image": 0,
        "shown": [0.25, 0.0, 0.75, 0.5],
        "reply": "Shown is <the> region.",
        "error": False,
    },
    {
        "text": "zoom(x)",
        "tool": "zoom",
        "region": None,
        "image": 0,
        "shown": None,
        "reply": "No.",
        "error": True,
    },
    {"text": "the answer", "tool": None, "region": None, "image": 0, "shown": None, "reply": "", "error": False},
]


def test_an_episode_is_shown_turn_by_turn(workshop):
    run = workshop.run()
    workshop.evaluation(run, "grpo", [workshop.result(index, index > 0, turns=TURNS) for index in range(3)])
    made = gallery(read_run(run).evaluations, 2)
    said = made.cards[0].answers[2]
    first, second = said.turns
    assert first.region == Shape("box", (0.25, 0.0, 0.75, 0.5)) and not first.error
    shown = Image.open(io.BytesIO(base64.b64decode(first.shown.uri.partition(",")[2])))
    assert shown.size == (48, 48) == (first.shown.width, first.shown.height)
    assert second.error and second.region is None and second.shown is None
    page = render(read_run(run))
    assert page.count('<li class="turn">') == 2 * 3
    assert "Shown is &lt;the&gt; region." in page and "No." in page


def test_without_turns_the_page_is_as_before(workshop):
    assert '<ol class="turns">' not in render(read_run(workshop.run()))
