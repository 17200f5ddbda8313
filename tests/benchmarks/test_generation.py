"""Generating answers: batches, left padding, and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.fovea_data import Screens
from benchmarks.harness.backends.generate import (
    Decoding,
    Output,
    Request,
    forget_generations,
    generate,
    plan,
    read_generations,
)
from benchmarks.harness.backends.local_model import LocalModel
from benchmarks.harness.items import BenchmarkItem, ItemImage, Truth
from grounding.errors import BrokenRow, UsageError
from models.loading import load_policy

ROOT = Path(__file__).parents[2]
GREEDY = Decoding()


class Parrot:
    """Answers with the question and its seed; dies after `batches` calls."""

    name = "parrot"

    def __init__(self, batches=10**9):
        self.left = batches
        self.calls = []

    def generate(self, requests, decoding, seed):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.calls.append([r.text for r in requests])
        return [[Output(f"{r.text} {seed} {k}", ((9, 9),), {"tokens": 3}) for k in range(decoding.rollouts)]
                for r in requests]  # fmt: skip


def run(backend, screens, folder, items, decoding=Decoding(samples=2)):  # noqa: B008 - frozen
    generate(backend, items, screens, lambda i: i.id, decoding=decoding, folder=folder, batch_size=5)
    return {key: (g.output, g.seen) for key, g in read_generations(folder).items()}


def test_batches_hold_items_of_similar_length_and_every_item_once():
    items = [BenchmarkItem(str(n), (ItemImage("x", 100 * (1 + n % 3), 100),), "q", Truth(), "box") for n in range(17)]
    batches = plan(items, batch_size=4, batch_tokens=10**6)
    assert sorted(i.id for b in batches for i in b) == sorted(i.id for i in items)
    assert all(len(b) <= 4 for b in batches)
    widths = [[i.images[0].width for i in b] for b in batches]
    assert widths == sorted(widths, reverse=True)
    long = [BenchmarkItem(str(n), (ItemImage("x", 2800, 2800),), "q", Truth(), "box") for n in range(3)]
    assert [len(b) for b in plan(long, batch_size=4, batch_tokens=15_000)] == [1, 1, 1]


def test_an_interrupted_run_continues_with_the_same_answers(screens, tmp_path):
    items = list(Screens().read(screens, "test"))
    whole = run(Parrot(), screens, tmp_path / "whole", items)
    assert len(whole) == 48
    with pytest.raises(KeyboardInterrupt):
        run(Parrot(batches=2), screens, tmp_path / "part", items)
    file = tmp_path / "part" / "generations.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 20
    # A kill in the middle of a write: a batch of which three lines and a half are on disk.
    file.write_text("".join(lines[:-7]) + lines[-7][:20])
    second = Parrot()
    assert run(second, screens, tmp_path / "part", items) == whole
    assert len(second.calls) == 4  # five batches, of which only the first was complete
    assert run(Parrot(batches=0), screens, tmp_path / "part", items) == whole  # nothing left to ask


def test_answers_made_with_other_settings_are_not_continued_and_stay(screens, tmp_path):
    items = list(Screens().read(screens, "test"))
    before = run(Parrot(), screens, tmp_path, items)
    with pytest.raises(UsageError, match=r"answers made with another decoding\.temperature; use another --out"):
        run(Parrot(), screens, tmp_path, items, Decoding(samples=2, temperature=0.5))
    with pytest.raises(UsageError, match="another questions"):
        run(Parrot(), screens, tmp_path, items[:-1])
    assert {key: (g.output, g.seen) for key, g in read_generations(tmp_path).items()} == before


def pages(count=9):
    """Items without pictures, so that a run takes a millisecond."""
    return [BenchmarkItem(f"q{n}", (), "find " * n, Truth(), "box") for n in range(count)]


def ask(folder, *, backend=None, batch_size=4, share=(0, 1), decoding=GREEDY):
    generate(backend or Parrot(), pages(), folder, lambda i: i.id, decoding=decoding, folder=folder,
             batch_size=batch_size, share=share)  # fmt: skip


def rows_in(folder):
    """Ids of every row of every journal, in order."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [row["id"] for row in map(json.loads, lines) if "id" in row]


EVERY = sorted(f"q{n}#0" for n in range(9))


def test_a_file_cut_at_any_byte_is_completed(tmp_path):
    """What a kill can leave: the journal up to any byte, the header's too."""
    ask(tmp_path / "whole")
    whole = (tmp_path / "whole" / "generations.jsonl").read_bytes()
    outputs = read_generations(tmp_path / "whole")
    for size in range(len(whole) + 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "generations.jsonl").write_bytes(whole[:size])
        ask(folder)
        assert sorted(rows_in(folder)) == EVERY
        assert read_generations(folder) == outputs


@pytest.mark.parametrize(("batch_size", "processes"), [(4, 2), (3, 1), (9, 1), (2, 3)])
@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_greedy_run_is_continued_with_other_batches_and_processes(tmp_path, answered, batch_size, processes):
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, backend=Parrot(batches=answered))
    file = tmp_path / "generations.jsonl"
    file.write_bytes(file.read_bytes()[: -30 if answered else None])
    for index in range(processes):
        ask(tmp_path, batch_size=batch_size, share=(index, processes))
    assert sorted(rows_in(tmp_path)) == EVERY
    ask(tmp_path, backend=Parrot(batches=0))  # one process more reads what several wrote


def test_a_sampled_run_keeps_its_batches_because_the_seed_belongs_to_them(tmp_path):
    sampled = Decoding(samples=2)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "part", backend=Parrot(batches=1), decoding=sampled)
    with pytest.raises(UsageError, match=r"another batch\.0"):
        ask(tmp_path / "part", batch_size=3, decoding=sampled)
    ask(tmp_path / "whole", decoding=sampled)
    for index in range(2):
        ask(tmp_path / "part", share=(index, 2), decoding=sampled)
    assert read_generations(tmp_path / "part") == read_generations(tmp_path / "whole")


# Imports no torch, so that a kill costs a second
KILLED = """
import sys, time
from pathlib import Path
from benchmarks.harness.backends.generate import Decoding, Output, generate
from benchmarks.harness.items import BenchmarkItem, Truth

class Slow:
    name = "slow"

    def generate(self, requests, decoding, seed):
        time.sleep(0.003)
        return [[Output(f"{r.text} {seed}", (), {"tokens": 3})] for r in requests]

folder = Path(sys.argv[1])
pages = [BenchmarkItem(f"q{n}", (), "find " * n, Truth(), "box") for n in range(9)]
generate(Slow(), pages, folder, lambda i: i.id, decoding=Decoding(), folder=folder, batch_size=1)
"""


def kill_at_random(folder, rng):
    """Start a run, kill it at a random moment, complete it; whether it was killed amid its answers."""
    command = [sys.executable, "-c", KILLED, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and not (folder / "generations.jsonl").exists():
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.04))
    process.kill()
    process.wait()
    partial = 0 < len(read_generations(folder)) < len(EVERY)
    ask(folder, batch_size=rng.choice([1, 4]))
    assert sorted(rows_in(folder)) == EVERY
    return partial


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path):
    rng = random.Random(0)
    amid = sum(kill_at_random(tmp_path / str(n), rng) for n in range(4))
    extra = (kill_at_random(tmp_path / str(n), rng) for n in range(4, 40))  # a busy machine may kill none in time
    assert amid > 0 or any(extra)


def test_work_is_dealt_out_to_processes(screens, tmp_path):
    items = list(Screens().read(screens, "test"))
    for index in range(2):
        generate(Parrot(), items, screens, lambda i: i.id, decoding=Decoding(), share=(index, 2), batch_size=5,
                 folder=tmp_path)  # fmt: skip
        assert (len(read_generations(tmp_path)) == len(items)) == bool(index)
    assert {i for i, _ in read_generations(tmp_path)} == {i.id for i in items}


def test_forgetting_answers_removes_no_other_file(tmp_path):
    ask(tmp_path, share=(0, 2))
    ask(tmp_path, share=(1, 2))
    (tmp_path / "generations-mine.jsonl").write_text("mine")
    forget_generations(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["generations-mine.jsonl"]


def test_a_missing_or_changed_image_is_named(screens, tmp_path):
    (item, *_) = Screens().read(screens, "test")
    gone = [BenchmarkItem("gone", (ItemImage("images/none.png", 9, 9),), "q", item.truth, "box")]
    with pytest.raises(BrokenRow, match=r"images/none\.png"):
        run(Parrot(), screens, tmp_path, gone)


@pytest.mark.slow
class TestRealModel:
    def test_batching_and_padding_change_no_greedy_answer(self, screens, random_model, evaluate):
        args = ["--model", random_model, "--data", screens, "--max-new-tokens", 12, "--restart", "--device", "cpu"]
        _, alone, _ = evaluate(*args, "--batch-size", 1)
        metrics, together, _ = evaluate(*args, "--batch-size", 7)
        assert [r["output"] for r in alone] == [r["output"] for r in together]
        assert len({r["output"] for r in alone}) > 1
        assert metrics["cost"]["passes"] == 24
        assert together[0]["images"][0]["seen"] == [96, 96]

    def test_sampling_is_seeded(self, screens, random_model, evaluate):
        args = ["--model", random_model, "--data", screens, "--max-new-tokens", 6, "--restart", "--samples", 2,
                "--limit", 8, "--device", "cpu"]  # fmt: skip
        _, first, _ = evaluate(*args, "--seed", 3)
        _, again, _ = evaluate(*args, "--seed", 3)
        _, other, _ = evaluate(*args, "--seed", 4)
        assert [r["output"] for r in first] == [r["output"] for r in again]
        assert [r["output"] for r in first] != [r["output"] for r in other]
        assert [(r["id"], r["rollout"]) for r in first[:3]] == [("s0", 0), ("s0", 1), ("s1", 0)]

    def test_a_killed_run_ends_with_the_same_results_file(self, screens, random_model, tmp_path):
        def command(out):
            return [sys.executable, "eval.py", "--model", random_model, "--data", screens, "--out", out,
                    "--max-new-tokens", "40", "--batch-size", "2", "--device", "cpu"]  # fmt: skip

        killed, whole = tmp_path / "killed", tmp_path / "whole"
        process = subprocess.Popen(command(killed), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        file = killed / "generations.jsonl"
        deadline = time.monotonic() + 120
        while not (file.is_file() and file.read_bytes().count(b"\n") > 4):
            assert process.poll() is None, "finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = file.read_bytes().count(b"\n") - 1
        assert 0 < done < 24
        assert not (killed / "results.jsonl").exists()
        for out in (killed, whole):
            subprocess.run(command(out), cwd=ROOT, check=True, capture_output=True)
        assert (killed / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
        metrics = [json.loads((out / "metrics.json").read_text()) for out in (killed, whole)]
        assert metrics[0]["correct"] == metrics[1]["correct"]


def test_a_local_model_is_shown_the_system_message(random_model):
    model, processor = load_policy(random_model)
    question = Request("the red square", (Image.new("RGB", (96, 96)),))
    shown = {}
    for system in (None, "here red"):
        ids = LocalModel(model, processor, False, system=system).encode([question])["input_ids"][0]
        shown[system] = processor.tokenizer.decode(ids)
    assert "<|im_start|>system\nhere red<|im_end|>" in shown["here red"]
    assert "system" not in shown[None]
