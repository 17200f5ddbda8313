"""MiniWoB++: boxes that were really rewarded, reproducible pages, splits that share nothing."""

import hashlib
import json
from argparse import Namespace

import pytest
from PIL import Image

from data_prep import SPLITS
from data_prep.__main__ import main
from data_prep.miniwob import OTHERS, SINGLE_CLICK, SOMETIMES
from data_prep.miniwob import solved_pages as miniwob
from data_prep.miniwob.task_page import WINDOW, PageElement, Searcher, TaskPage, all_tasks, html_folder
from data_prep.web.browser import Browser
from grounding.errors import UsageError
from grounding.io import read_samples


def element(box=(10, 60, 30, 80), tag="button", name="ok", classes="", painted=True):
    return PageElement(box, tag, name, classes, painted, center=True, leaf=True)


def test_seeds_of_splits_pages_and_runs_never_meet():
    seeds = {
        miniwob.page_seed(split, seed, task, number, attempt)
        for split in SPLITS
        for seed in (0, 1, 10)
        for task in ("click-tab", "click-tab-2")
        for number in range(12)
        for attempt in range(3)
    }
    assert len(seeds) == 3 * 3 * 2 * 12 * 3


def test_boxes_are_cut_to_the_screenshot():
    assert miniwob.to_box((0, 50, 160, 210), "area").xyxy == (0, 0, 1, 1)
    assert miniwob.to_box((40, 90, 80, 130), "area").xyxy == (0.25, 0.25, 0.5, 0.5)
    assert miniwob.to_box((-5, 40, 80, 300), "area").xyxy == (0, 0, 0.5, 1)
    assert miniwob.to_box((0, 105, 80, 210), "window").xyxy == (0, 0.5, 0.5, 1)


def test_thoughts_say_what_and_where():
    box = miniwob.to_box((10, 60, 30, 80), "area")
    assert miniwob.thought_of(element(), box) == 'I look for the button "ok". It is at the top left.'
    nameless = element(tag="span", name="")
    assert miniwob.thought_of(nameless, box) == "I look for the icon. It is at the top left."
    assert miniwob.kind_word(element(tag="span", classes="alink")) == "link"
    assert miniwob.kind_word(element(box=(0, 60, 90, 150), tag="div", name="")) == "box"


def test_an_unknown_task_is_named_with_the_nearest():
    pytest.importorskip("miniwob", reason="pip install -e '.[web]'")
    with pytest.raises(UsageError, match="did you mean 'click-button'"):
        miniwob.check_tasks(["click-buton"])


def test_the_table_has_every_page_once():
    pytest.importorskip("miniwob", reason="pip install -e '.[web]'")
    assert sorted([*SINGLE_CLICK, *SOMETIMES, *OTHERS]) == all_tasks()


def test_plan_deals_pages_to_splits():
    args = Namespace(tasks=None, per_task=2, val_per_task=1, test_per_task=0)
    slots = miniwob.plan(args)
    assert len(slots) == 3 * len(SINGLE_CLICK)
    assert [(s.split, s.number) for s in slots[:3]] == [("train", 0), ("train", 1), ("val", 0)]


TASKS = ["click-test-2", "grid-coordinate", "click-widget"]
FLAGS = ["--per-task", "2", "--val-per-task", "1", "--tasks", *TASKS, "--elements"]


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def harvest(tmp_path_factory, chromium):
    out = tmp_path_factory.mktemp("miniwob") / "data"
    assert main(["miniwob", "--out", str(out), *FLAGS]) == 0
    return out


@pytest.mark.slow
def test_a_harvest_is_complete_and_says_where_it_came_from(harvest):
    train, val = (list(read_samples(harvest / f"{split}.jsonl")) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 3)
    for sample in [*train, *val]:
        with Image.open(harvest / sample.images[0].path) as image:
            assert image.size == (160, 160) == (sample.images[0].width, sample.images[0].height)
            assert len(set(image.convert("RGB").getdata())) > 1
        assert sample.target.area > 0
        assert sample.meta["reward"] == 1.0
        boxes = [row[:4] for row in json.loads(sample.meta["elements"])]
        assert list(sample.target.xyxy) in boxes
    assert json.loads((harvest / "manifest.json").read_text())["rejected"] == 0


@pytest.mark.slow
def test_the_middle_of_every_box_is_rewarded_and_a_corner_of_the_page_is_not(harvest, chromium):
    samples = list(read_samples(harvest / "train.jsonl"))
    with Browser(html_folder(), executable=chromium) as browser:
        for task in TASKS:
            with browser.page(WINDOW, intercept=False) as page:
                live = TaskPage(page, task)
                for sample in (s for s in samples if s.meta["task"] == task):
                    center = sample.target.center
                    outcome = live.try_click(sample.meta["page_seed"], center.x * 160, 50 + center.y * 160)
                    assert outcome.success and outcome.raw == 1.0
                    assert not live.try_click(sample.meta["page_seed"], 159, 209).success


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_an_interrupted_run_too(harvest, tmp_path, chromium):
    whole = digest(harvest)
    args = Namespace(
        per_task=2, val_per_task=1, test_per_task=0, tasks=TASKS, crop="area", tries=8, elements=True, seed=0,
        chromium=str(chromium), start=4,
    )  # fmt: skip
    rest = list(miniwob.convert(args))
    assert len(rest) == 5
    for item in rest:
        for name, content in item.files.items():
            assert hashlib.sha256(content).hexdigest() == whole[name]


@pytest.mark.slow
def test_scripted_search_agrees_with_the_mouse(chromium):
    with Browser(html_folder(), executable=chromium) as browser:
        for task in ("click-test-2", "click-widget", "focus-text"):
            with browser.page(WINDOW, intercept=False) as page:
                live = TaskPage(page, task)
                for seed in ("a", "b"):
                    by_script = Searcher(live).search(seed)
                    by_mouse = Searcher(live, real=True).search(seed)
                    assert by_script.regions == by_mouse.regions
                    assert by_script.regions
