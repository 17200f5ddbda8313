"""Commands killed at random moments: the rerun ends with the same bytes, nothing twice, nothing left over.

Every file of the data set is compared, manifest.json included. What lies beside it: the hashes that `curate` keeps
must be the same bytes too; of the teacher's replies the content must be the same, for SQLite lays out its pages in
the order the replies came in.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.curate.hashes import ImageHashes
from grounding.io import read_samples
from tests.data_prep.helpers_data import write_json

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def start(*arguments):
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()


def stamp(out):
    """Changes when a run has opened its work in `out`."""
    try:
        return (out / ".convert/state.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kill_and_finish(out, command, *, kills, seconds, seed):
    """Run `command` into `out`, killed again and again within `seconds` of getting to work; then to the end."""
    chance = random.Random(seed)
    killed = 0
    for halved in range(8):  # on a busy machine a run may be through first: earlier kills then, in a new folder
        for _ in range(kills):
            before = stamp(out)
            process = start(*command, "--out", out)
            while stamp(out) == before and process.poll() is None:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, seconds / 2**halved))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.communicate()
        if killed:
            break
        shutil.rmtree(out)
    assert killed, "every run was through before it could be killed"
    finish(start(*command, "--out", out))


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_all(path):
    return read_samples(path) if path.exists() else ()


def assert_same(torn, whole):
    assert tree(torn).keys() == tree(whole).keys()
    assert tree(torn) == tree(whole)
    ids = [sample.id for name in ("train", "val") for sample in read_all(torn / f"{name}.jsonl")]
    assert len(ids) == len(set(ids)) > 0


def working_time(whole, command):
    """Seconds an uninterrupted run into `whole` takes once it is at work."""
    process = start(*command, "--out", whole)
    while not stamp(whole) and process.poll() is None:
        time.sleep(0.002)
    began = time.monotonic()
    finish(process)
    return time.monotonic() - began


ROWS, PICTURES = 6000, 200


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """A file in VLM-R1's form with pictures, some of them missing."""
    root = tmp_path_factory.mktemp("vlm_r1")
    for number in range(PICTURES):
        if number % 50:
            noise = np.random.default_rng(number).integers(0, 255, (80, 100, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / f"{number}.png")
    rows = [
        {"image": f"{n * PICTURES // ROWS}.png", "problem": f"thing number {n}", "solution": [n % 40, 10, 60.5, 70]}
        for n in range(ROWS)
    ]
    write_json(root / "rec.json", rows)
    return root


@pytest.mark.parametrize(("images", "kills"), [("copy", 3), ("link", 1)])
def test_a_conversion(annotations, tmp_path, images, kills):
    command = ["vlm_r1", "--root", annotations, "--annotations", "rec.json", "--images", images, "--val", "0.2"]
    seconds = working_time(tmp_path / "whole", command)
    kill_and_finish(tmp_path / "torn", command, kills=kills, seconds=seconds, seed=images)
    assert_same(tmp_path / "torn", tmp_path / "whole")
    assert json.loads((tmp_path / "torn/manifest.json").read_text())["rejects"] == {
        "missing image": ROWS * 4 // PICTURES
    }


@pytest.fixture(scope="module")
def converted(annotations, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "data"
    finish(start("vlm_r1", "--root", annotations, "--annotations", "rec.json", "--val", "0.2", "--out", out))
    return out


def test_curation(converted, tmp_path):
    command = ["curate", "--root", converted, "--balance", "2", "--parallel", "2"]
    seconds = working_time(tmp_path / "whole", command)
    kill_and_finish(tmp_path / "torn", command, kills=2, seconds=seconds, seed=1)
    assert_same(tmp_path / "torn", tmp_path / "whole")
    hashes = [tmp_path / f"{name}.hashes.jsonl" for name in ("torn", "whole")]
    assert hashes[0].read_bytes() == hashes[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "torn",
        "torn.hashes.jsonl",
        "whole",
        "whole.hashes.jsonl",
    ]


def test_templates_of_thoughts(converted, tmp_path):
    command = ["cot", "--root", converted, "--form", "grounded"]
    seconds = working_time(tmp_path / "whole", command)
    kill_and_finish(tmp_path / "torn", command, kills=2, seconds=seconds, seed=2)
    assert_same(tmp_path / "torn", tmp_path / "whole")


class Teacher(BaseHTTPRequestHandler):
    """Answers with a thought made of the request, after a moment; counts what it was asked."""

    asked: list[str]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"][-1]["text"]
        self.asked.append(text)
        time.sleep(0.01)
        place = "[" + text.split("It is at [")[1].split("]")[0] + "]"
        thought = f"I look for {text.split(chr(34))[1]}, near the middle, and it is at {place}."
        reply = {
            "choices": [{"message": {"content": thought}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5},
        }
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def teacher():
    handler = type("Handler", (Teacher,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", handler.asked
    server.shutdown()
    server.server_close()


def replies(path):
    with closing(sqlite3.connect(path)) as store:
        return sorted(store.execute("SELECT * FROM replies"))


def test_thoughts_of_a_teacher(converted, tmp_path, teacher):
    url, asked = teacher
    few = tmp_path / "few"
    finish(start("cot", "--root", converted, "--limit", "300", "--form", "knowledge", "--out", few))
    command = ["cot", "--root", few, "--form", "knowledge", "--teacher", url, "--model", "m", "--parallel", "4"]
    seconds = working_time(tmp_path / "whole", command)
    once, kills = len(asked), 2
    kill_and_finish(tmp_path / "torn", command, kills=kills, seconds=seconds, seed=3)
    assert_same(tmp_path / "torn", tmp_path / "whole")
    assert len(asked) - once <= once + kills * 4  # only what was under way at a kill is asked again
    made = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("torn"))
    assert made == ["torn", "torn.replies.cost.json", "torn.replies.sqlite"]
    assert replies(tmp_path / "torn.replies.sqlite") == replies(tmp_path / "whole.replies.sqlite")
    costs = [json.loads((tmp_path / f"{name}.replies.cost.json").read_text()) for name in ("torn", "whole")]
    assert costs[0] == costs[1] and costs[0]["replies"] == once


PAGE = """<!doctype html><meta charset="utf-8"><h1>Page {n}</h1><button style="margin-left:{n}0px">Save {n}</button>
<button>Open</button> <label>Name <input></label> <canvas id=c></canvas>
<script>c.getContext('2d').fillRect(Math.random() * 90, 9, 40, 40)</script>"""


def test_a_harvest(tmp_path, chromium):
    site = tmp_path / "site"
    site.mkdir()
    for number in range(5):
        (site / f"{number}.html").write_text(PAGE.format(n=number))
    command = ["web", "--root", site, "--screens", "320x240", "--val-pages", "0.5", "--page-seconds", "60"]
    seconds = working_time(tmp_path / "whole", command)
    kill_and_finish(tmp_path / "torn", command, kills=2, seconds=seconds, seed=4)
    assert_same(tmp_path / "torn", tmp_path / "whole")
    for path in (tmp_path / "torn/images").iterdir():
        with Image.open(path) as image:
            image.load()


def test_a_torn_line_of_hashes_is_written_anew(converted, tmp_path):
    images = [sample.images[0] for sample in read_samples(converted / "val.jsonl")]
    cache = tmp_path / "hashes.jsonl"
    whole = ImageHashes(converted, cache).read(images)
    text = cache.read_bytes()
    cache.write_bytes(text[: len(text) // 2])
    assert np.array_equal(ImageHashes(converted, cache).read(images), whole)
    assert cache.read_bytes() == text
