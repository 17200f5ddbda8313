"""Generating answers: batches, left padding, and runs that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.harness.generate import Decoding, Output, Request, generate, plan, read_generations
from benchmarks.harness.items import Item, Picture, Truth
from benchmarks.harness.local import LocalModel
from benchmarks.screens import Screens
from grounding.errors import BrokenRow, UsageError
from models.loading import load_policy

ROOT = Path(__file__).parents[2]


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
    generate(
        backend, items, screens, lambda i: i.id, decoding=decoding, file=folder / "generations.jsonl", batch_size=5
    )
    return {key: (g.output, g.seen) for key, g in read_generations(folder).items()}


def test_batches_hold_items_of_similar_length_and_every_item_once():
    items = [Item(str(n), (Picture("x", 100 * (1 + n % 3), 100),), "q", Truth(), "box") for n in range(17)]
    batches = plan(items, batch_size=4, batch_tokens=10**6)
    assert sorted(i.id for b in batches for i in b) == sorted(i.id for i in items)
    assert all(len(b) <= 4 for b in batches)
    widths = [[i.images[0].width for i in b] for b in batches]
    assert widths == sorted(widths, reverse=True)
    long = [Item(str(n), (Picture("x", 2800, 2800),), "q", Truth(), "box") for n in range(3)]
    assert [len(b) for b in plan(long, batch_size=4, batch_tokens=15_000)] == [1, 1, 1]


def test_an_interrupted_run_continues_with_the_same_answers(screens, tmp_path):
    items = Screens().read(screens, "test")
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


def test_answers_made_with_other_settings_are_not_continued(screens, tmp_path):
    items = Screens().read(screens, "test")
    run(Parrot(), screens, tmp_path, items)
    with pytest.raises(UsageError, match="another decoding"):
        run(Parrot(), screens, tmp_path, items, Decoding(samples=2, temperature=0.5))
    with pytest.raises(UsageError, match="another questions"):
        run(Parrot(), screens, tmp_path, items[:-1])


def test_work_is_dealt_out_to_processes(screens, tmp_path):
    items = Screens().read(screens, "test")
    for index in range(2):
        generate(Parrot(), items, screens, lambda i: i.id, decoding=Decoding(), share=(index, 2), batch_size=5,
                 file=tmp_path / f"generations-{index}-of-2.jsonl")  # fmt: skip
    assert {i for i, _ in read_generations(tmp_path, processes=2)} == {i.id for i in items}
    assert not read_generations(tmp_path)  # what one process would have written


def test_a_missing_or_changed_image_is_named(screens, tmp_path):
    (item, *_) = Screens().read(screens, "test")
    gone = [Item("gone", (Picture("images/none.png", 9, 9),), "q", item.truth, "box")]
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
