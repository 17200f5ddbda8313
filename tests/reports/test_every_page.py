"""Every page of ours in a real Chromium: wide, narrow, light, dark, long words, 5,000 items. See `tests.pages`."""

from __future__ import annotations

import pytest
from PIL import Image

from data_prep.view.pages import build as build_view
from grounding.answer import Answer, Status
from grounding.io import write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Box
from recipes.records.tracking import ShownRollout, record, samples_file
from recipes.runner import jobs_of
from reports.page import build
from tests.pages import LONG, SECONDS, chromium_browser, look
from tests.recipes.test_loops import recipe_of, stage
from tests.reports.conftest import QUESTIONS

MANY = 5000


@pytest.fixture(scope="module")
def browser(chromium):
    with chromium_browser(chromium) as started:
        yield started


def test_a_report_of_many_questions(browser, workshop):
    run = workshop.run()
    for label, share in (("base", 5), ("grpo", 2)):
        rows = []
        for index in range(MANY):
            row = workshop.result(index % QUESTIONS, index % share > 0, instruction=LONG if index % 3 else "it")
            rows.append({**row, "id": f"q{index}"})
        workshop.evaluation(run, label, rows)
    page = build(run, out=workshop.root / "report.html")

    def act(page):
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        card = page.locator(".card:visible", has_text=LONG[:40]).first
        assert card.locator("h3").bounding_box()["height"] < 130  # clamped, and whole where it is enlarged
        card.locator(".zoom:visible").press("Enter")
        assert LONG.strip() in page.inner_text("dialog[open] p")
        page.keyboard.press("Escape")
        heights = page.eval_on_selector_all(
            ".chip", "all => all.filter(a => a.checkVisibility()).map(a => a.offsetHeight)"
        )
        assert max(heights) < 30  # pills of one line
        for chart in page.locator("figure.chart svg[data-readout]").all()[:4]:
            for column in ("text.end", "text.middle"):
                ticks = chart.locator(f".axis {column}").all_text_contents()
                assert len(set(ticks)) == len(ticks)

    took = look(browser, page.as_uri(), ".card", act)
    assert took < SECONDS
    text = page.read_text()
    assert str(workshop.root) not in text.replace(str(workshop.data), "")  # the run's own record names its data
    assert text.count('<article class="card"') == 150


def test_rollouts_of_a_stage(browser, tmp_path):
    (job,) = jobs_of(recipe_of("m", "data", tmp_path, stage("select")))
    job.folder.mkdir(parents=True)
    image = Image.new("RGB", (640, 360), "white")
    sample = Sample("s", (ImageRef("0.png", 640, 360),), LONG, Box(0.5, 0.5, 0.51, 0.52), "x", "CC0-1.0")
    answer = Answer(Status.OK, boxes=(Box(0.1, 0.1, 0.4, 0.4),))
    rewards = {"a_reward_of_a_long_name_of_the_users_own": 0.5, "format": None}
    for step in range(20):
        record(job, step, [ShownRollout(sample, [image], LONG * 3, answer, rewards)] * 4)

    def act(page):
        assert page.locator("article").count() == 80
        assert page.locator("h2").first.bounding_box()["height"] < 120
        assert page.locator("article").first.bounding_box()["height"] < 1100

    look(browser, samples_file(job).with_suffix(".html").as_uri(), "article", act)


def test_a_view_of_a_large_data_set(browser, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(7):
        Image.new("RGB", (400, 300), (number * 30, 90, 120)).save(tmp_path / f"images/{number}.png")
    samples = (
        Sample(f"s{n}", (ImageRef(f"images/{n % 7}.png", 400, 300),), LONG if n % 2 else f"thing {n}",
               Box(0.5, 0.5, 0.51, 0.51), "made", "CC0-1.0", thought=LONG if n % 3 else None) for n in range(MANY)
    )  # fmt: skip
    write_samples(tmp_path / "train.jsonl", samples)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{}\n")
    assert build_view(tmp_path, tmp_path / "view") == MANY

    def act(page):
        assert page.locator("article").count() == 24
        clamped = page.locator("article b").nth(1).bounding_box()
        assert clamped["height"] < 120
        assert page.locator("article >> nth=0 >> svg circle.mark").count() == 1  # around what a frame would cover
        page.locator("summary").click()
        page.locator("article button").nth(1).press("Enter")
        assert LONG.strip() in page.inner_text("dialog[open] b")
        page.keyboard.press("Escape")
        page.fill("#words", "thing 4998")
        page.wait_for_selector("body[data-shown='1']")
        assert str(tmp_path) not in page.inner_text("#broken") and "train.jsonl:5001" in page.inner_text("#broken")

    assert look(browser, (tmp_path / "view/index.html").as_uri(), "article", act) < SECONDS
