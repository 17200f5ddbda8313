"""The pages: every row is in a piece, text cannot become markup, a hundred thousand rows open fast in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.view.pages import PIECE, build
from grounding.errors import UsageError
from grounding.io import write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Point, Polygon, Span, TextBox
from tests.data_prep.helpers_data import write_picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


TARGETS = [Box(0.1, 0.2, 0.3, 0.4), Point(0.5, 0.5), Absent(), Span(1, 2), TextBox("42", (Box(0, 0, 1, 1),)),
           Polygon(((0.1, 0.1), (0.5, 0.1), (0.3, 0.6)))]  # fmt: skip


def samples(count, instruction="the thing"):
    for n in range(count):
        image = ImageRef(f"images/{n % 7}.png", 40, 30)
        thought = "I look." if n % 2 else None
        yield Sample(f"s{n}", (image,), f"{instruction} {n}", TARGETS[n % 6], "made", "CC0-1.0", thought=thought)


def dataset(root: Path, count: int, **more) -> Path:
    for n in range(7):
        write_picture(root / "images" / f"{n}.png", 40, 30)
    write_samples(root / "train.jsonl", samples(count, **more))
    return root


def read_piece(path: Path):
    return json.loads(re.fullmatch(r"fovea\.\w+\((?:\d+, )?(.*)\);\n", path.read_text(), re.DOTALL)[1])


def dump(page: Path, query: str = "") -> str:
    """The page's document after its scripts ran."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom",
               f"--user-data-dir={page.parent / 'profile'}", f"file://{page}{query}"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def test_every_row_is_in_one_piece(tmp_path):
    count = 2 * PIECE + 3
    assert build(dataset(tmp_path, count), tmp_path / "view") == count
    data = tmp_path / "view" / "data"
    pieces = [read_piece(data / f"rows-{n}.js") for n in range(3)]
    assert [len(piece) for piece in pieces] == [PIECE, PIECE, 3]
    assert [row[0] for piece in pieces for row in piece] == [f"s{n}" for n in range(count)]
    assert len(read_piece(data / "index.js")) == count
    stats = read_piece(data / "stats.js")
    assert stats["rows"] == count and dict(stats["counts"]["kind"])["box"] == 168
    assert sum(stats["centers"]) == 168 + 3 * 167  # a sixth each: box, point, text_box, polygon
    assert stats["images"] == ".."


def test_broken_rows_are_shown_not_hidden(tmp_path):
    root = dataset(tmp_path, 3)
    with (root / "train.jsonl").open("a") as handle:
        handle.write("{}\nnot json\n")
    assert build(root, root / "view") == 3
    assert len(read_piece(root / "view/data/stats.js")["broken"]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no row"):
        build(tmp_path / "empty", tmp_path / "empty" / "view")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium")
@pytest.mark.slow
def test_the_browser_shows_cards_and_runs_nothing_of_the_data(tmp_path):
    evil = "</script><script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\"> thing"
    dataset(tmp_path, 30, instruction=evil)
    assert main(["view", "--root", str(tmp_path)]) == 0
    text = dump(tmp_path / "view" / "index.html")
    assert 'data-shown="24"' in text and text.count("<article>") == 24
    # every shape twice: its halo and its mark
    assert text.count("<rect") >= 16 and text.count("<polygon") == 2 * 4 and text.count("<circle") == 2 * 4
    assert "<title>evil" not in text and "&lt;/script&gt;" in text
    assert 'src="../images/0.png"' in text and "1 s - 2 s" in text and "absent" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium")
@pytest.mark.slow
def test_many_rows_open_without_being_read(tmp_path):
    root = dataset(tmp_path, 7)
    write_samples(root / "train.jsonl", samples(20_000))
    build(root, root / "view")
    first = sum((root / "view" / "data" / name).stat().st_size for name in ("index.js", "stats.js", "rows-0.js"))
    assert first < 20_000 * 60 + 200_000  # all that a browser reads before it shows something
    text = dump(root / "view" / "index.html", "#800")
    assert 'data-shown="24"' in text and text.count("data/rows-") <= 2
