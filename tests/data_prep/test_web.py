"""Web harvest: what is hidden is not asked for, what is asked for is unique, and bad pages are counted."""

import hashlib
import json
from argparse import ArgumentTypeError

import numpy as np
import pytest
from PIL import Image

from data_prep import Reject
from data_prep.__main__ import main
from data_prep.pipeline.writer import KIND
from data_prep.screens.appearance import color_name
from data_prep.web import rendering as web
from data_prep.web.browser import Screen
from data_prep.web.harvest import HarvestedScreen, WebElement
from data_prep.web.instructions import place_of, write
from grounding.errors import UsageError
from grounding.folders import STAGING, claim
from grounding.io import read_samples
from tests.data_prep.helpers_data import parse


def element(box, role="button", name="", fill=None, picture=False):
    return WebElement(box, role, name, name, fill, (0, 0, 0), picture)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 255, 255), "white"),
        ((0, 0, 0), "black"),
        ((128, 128, 130), "grey"),
        ((255, 0, 0), "red"),
        ((0, 102, 204), "blue"),
        ((0, 128, 0), "green"),
        ((255, 165, 0), "orange"),
        ((255, 255, 0), "yellow"),
        ((128, 0, 128), "purple"),
        ((102, 117, 140), ""),  # slate: one calls it grey, another blue
    ],
)
def test_colors_get_the_word_people_use(rgb, name):
    assert color_name(rgb) == name


def test_each_form_says_something_else_about_the_element():
    save = element((10, 10, 60, 30), name="Save", fill=(0, 102, 204))
    stop = element((70, 10, 120, 30), name="Stop", fill=(200, 0, 0))
    assert write(save, [save, stop], 300, 300) == {
        "functional": 'Press the button "Save".',
        "visual": 'Click the blue button that says "Save".',
        "positional": 'Click the first button from the left in the row of "Stop".',
    }


def test_words_that_fit_two_elements_are_not_written():
    one = element((10, 10, 60, 30), name="Edit")
    two = element((10, 200, 60, 220), name="Edit")
    assert write(one, [one, two], 300, 300) == {"positional": "Click the button at the top left of the screen."}
    near = element((10, 40, 60, 60), name="Edit")
    assert write(one, [one, near], 300, 300) == {}


def test_a_nameless_icon_is_known_by_its_looks_alone():
    icon = element((280, 5, 296, 21), fill=(220, 0, 0), picture=True)
    other = element((10, 10, 60, 30), name="Save")
    assert write(icon, [icon, other], 300, 300)["visual"] == "Click the red icon button."
    twin = element((250, 5, 266, 21), fill=(210, 0, 0), picture=True)
    assert "visual" not in write(icon, [icon, twin], 300, 300)


def test_a_paragraph_is_not_a_name():
    wordy = element((10, 10, 290, 290), role="link", name="x" * 200)
    assert set(write(wordy, [wordy], 300, 300)) == {"positional"}


def test_ninths_of_the_screen():
    assert place_of(element((0, 0, 10, 10)), 300, 300) == "top left"
    assert place_of(element((140, 140, 160, 160)), 300, 300) == "center"
    assert place_of(element((290, 290, 300, 300)), 300, 300) == "bottom right"


def test_screens_are_read_or_refused():
    assert web.screen("390x844@2") == (390, 844, 2.0)
    assert web.screen("1280x800") == (1280, 800, 1.0)
    for bad in ("1280", "1280x800@0", "1280x800@9", "axb", "12800x8"):
        with pytest.raises(ArgumentTypeError):
            web.screen(bad)


def test_urls_need_an_allowed_host(tmp_path):
    urls = tmp_path / "urls.txt"
    urls.write_text("# ours\nhttp://localhost:8000/a\n\n")
    args = parse("web", tmp_path, tmp_path / "out", "--urls", str(urls), "--screens", "640x480")
    with pytest.raises(UsageError, match="--allow-host localhost"):
        web.plan(tmp_path, args)
    args.allow_host = ["localhost"]
    views = web.plan(tmp_path, args)
    assert [view.url for view in views] == ["http://localhost:8000/a"]


def test_a_folder_without_pages_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no pages"):
        web.plan(tmp_path, parse("web", tmp_path, tmp_path / "out"))


def test_canonical_boxes_do_not_depend_on_the_scale():
    shown = element((64, 48, 320, 240))
    assert web.to_box(shown, Screen(640, 480, 2)).xyxy == (0.1, 0.1, 0.5, 0.5)


PAGE = """<!doctype html><meta charset="utf-8">
<style>
  body { font: 16px sans-serif; margin: 20px } .lead { background: #06c; color: white }
  @media (prefers-color-scheme: dark) { body { background: #222; color: #eee } }
</style>
<h1>Settings</h1>
<p><label>Email <input type="email"></label> <input type="hidden" name="x"></p>
<button class="lead">Save</button> <button>Cancel</button>
<button aria-label="Search"><svg width="16" height="16"><circle cx="8" cy="8" r="6" fill="red"/></svg></button>
<div style="position:relative; height:60px">
  <button style="position:absolute; left:0; top:0">Covered</button>
  <div style="position:absolute; left:0; top:0; width:300px; height:60px; background:#ccc"></div>
</div>
<div style="width:100px; height:20px; overflow:hidden"><button style="margin-top:30px">Clipped</button></div>
<button style="opacity:0">Ghost</button>
<button style="background:none; border:0; width:40px; height:40px" aria-label="Blank"></button>
<button style="position:absolute; left:200px; top:300px">\ue001 Print<span style="position:absolute; width:1px;
height:1px; overflow:hidden; clip:rect(0,0,0,0)">for screen readers</span></button>
<button aria-label="\uf101" style="position:absolute; left:200px; top:350px">\uf101</button>
<div style="position:absolute; left:400px; top:300px; width:150px; height:20px; box-shadow:0 15px 30px rgb(0 0 0/.5)">
<button style="position:absolute; background:none; border:0; left:50px; top:25px; width:40px; height:40px"
aria-label="Shaded"></button></div>
<button style="position:absolute; left:-500px">Outside</button>
<button style="position:absolute; top:900px">Below</button>
<a href="#" style="position:absolute; left:600px; top:20px; width:90px">Half outside</a>
<a href="#" style="position:absolute; left:500px; top:20px">Inside</a>
<script>document.title = String(Math.random()) + Date.now();</script>
"""


def test_an_element_that_draws_nothing_is_left_out():
    picture = Image.new("RGB", (200, 200), "white")
    picture.paste((0, 102, 204), (20, 20, 60, 40))  # two device pixels each: CSS (10, 10) to (30, 20)
    picture.putpixel((150, 20), (0, 0, 0))
    plain, dotted, blank = element((10, 10, 30, 20)), element((70, 5, 80, 15)), element((60, 60, 80, 80))
    beside = element((31, 10, 45, 20))  # nothing inside, and a blue box next to it
    seen = HarvestedScreen((plain, dotted, blank, beside), (), {"covered": 1}, 100)
    left = web.without_blanks(seen, Screen(100, 100, 2), picture)
    assert left == HarvestedScreen((plain, dotted), (), {"covered": 1, "nothing drawn": 2}, 100)


def test_a_shadow_on_an_empty_element_is_not_something_drawn():
    shadow = np.linspace(255, 120, 40)[:, None, None].repeat(100, 1).repeat(3, 2)  # darker by 3 a pixel, then again
    picture = Image.fromarray(np.concatenate([shadow, shadow[::-1], shadow[:20]]).astype(np.uint8))
    shaded = element((20, 5, 60, 35))
    assert web.without_blanks(HarvestedScreen((shaded,), (), {}, 100), Screen(100, 100), picture).elements == ()
    picture.paste((90, 90, 90), (38, 18, 40, 20))  # an icon of two pixels
    assert web.without_blanks(HarvestedScreen((shaded,), (), {}, 100), Screen(100, 100), picture).elements == (
        shaded,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    (root / "form.html").write_text(PAGE)
    (root / "loop.html").write_text("<script>while (true);</script>")
    (root / "empty.html").write_text("<p>nothing to click</p>")
    return root


FLAGS = ["--screens", "640x480", "320x480@2", "--page-seconds", "4", "--max-rejects", "0.9"]


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def harvest(site, tmp_path_factory, chromium):
    out = tmp_path_factory.mktemp("web") / "data"
    assert main(["web", "--root", str(site), "--out", str(out), *FLAGS]) == 0
    return out


@pytest.mark.slow
def test_only_what_can_be_seen_is_asked_for(harvest):
    samples = list(read_samples(harvest / "train.jsonl"))
    names = {s.meta["name"] for s in samples}
    assert names == {"Settings", "Email", "Save", "Cancel", "Search", "Inside", "Print for screen readers", ""}
    words = {s.instruction for s in samples}
    assert "Click the link at the top right of the screen." not in words  # the link that is half outside is one too
    assert 'Click the white button that says "Print".' in words  # what is drawn, not what is read out
    assert not [said for said in words if "\ue001" in said or "\uf101" in said]
    assert {'Press the button "Search".', 'Click the blue button that says "Save".'} <= words


@pytest.mark.slow
def test_boxes_lie_on_the_pixels_they_mean(harvest):
    for sample in read_samples(harvest / "train.jsonl"):
        with Image.open(harvest / sample.images[0].path) as image:
            assert image.size == ((640, 960) if "@2" in sample.meta["screen"] else (640, 480))
            if sample.meta["name"] != "Save":
                continue
            blue = np.all(np.asarray(image.convert("RGB")) == (0, 102, 204), axis=-1)
        x1, y1, x2, y2 = (round(v) for v in np.multiply(sample.target.xyxy, (*image.size, *image.size)))
        assert blue[y1:y2, x1:x2].mean() > 0.5
        assert blue[y1:y2, x1:x2].sum() == blue.sum()


@pytest.mark.slow
def test_bad_pages_are_counted_and_the_run_goes_on(harvest):
    manifest = json.loads((harvest / "manifest.json").read_text())
    assert manifest["rejects"] == {"never finishes loading": 2, "nothing to ask for": 2}
    assert manifest["images"] == 2


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bytes(site, harvest, tmp_path, chromium):
    out = tmp_path / "data"
    claim(out, KIND)
    rows = web.convert(parse("web", site, out, *FLAGS))
    first = next(row for row in rows if not isinstance(row, Reject))
    rows.close()
    for name, content in first.files.items():  # what the writer had placed when it was killed
        (out / STAGING / name).parent.mkdir(parents=True)
        (out / STAGING / name).write_bytes(content)
    assert main(["web", "--root", str(site), "--out", str(out), *FLAGS]) == 0
    assert digest(out) == digest(harvest)


@pytest.mark.slow
def test_without_scripts_a_loop_does_no_harm(site, tmp_path, chromium):
    out = tmp_path / "data"
    flags = ["--root", str(site), "--out", str(out), "--no-scripts", "--screens", "640x480", "--themes", "dark"]
    flags += ["--scrolls", "2"]  # no page but the first is long enough for a second screen: not a reject
    assert main(["web", *flags, "--max-rejects", "0.9"]) == 0
    assert json.loads((out / "manifest.json").read_text())["rejects"] == {"nothing to ask for": 2}
    sample = next(read_samples(out / "train.jsonl"))
    with Image.open(out / sample.images[0].path) as image:
        assert image.convert("RGB").getpixel((5, 5)) == (34, 34, 34)
