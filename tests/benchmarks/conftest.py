"""A small data set, a model with random weights, and a runner for eval.py, shared by the tests of evaluation."""

from __future__ import annotations

import json

import pytest
from PIL import Image, ImageDraw

from benchmarks.harness.cli import main
from grounding.io import write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box


@pytest.fixture(scope="session")
def screens(tmp_path_factory):
    """A data set folder of 24 screens, every sixth without its target, in two sizes."""
    root = tmp_path_factory.mktemp("screens")
    (root / "images").mkdir()
    samples = []
    for number in range(24):
        width, left, top = (96, 128)[number % 2], 8 + 2 * number, 60 - 2 * number
        image = Image.new("RGB", (width, 96), "white")
        ImageDraw.Draw(image).rectangle([left, top, left + 20, top + 20], fill="red")
        image.save(root / "images" / f"{number}.png")
        box = Box(left / width, top / 96, (left + 20) / width, (top + 20) / 96)
        samples.append(
            Sample(
                id=f"s{number}",
                images=(ImageRef(f"images/{number}.png", width, 96),),
                instruction="the red square" + " here" * (number % 3),
                target=Absent() if number % 6 == 5 else box,
                source="test",
                license="CC0-1.0",
                meta={"level": number % 2},
            )
        )
    write_samples(root / "test.jsonl", samples)
    return root


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """A model folder with random weights and a fovea.json."""
    import torch

    from models import tiny
    from models.loading import save_policy

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = tiny.train_tokenizer(['the red square here {"bbox_2d": [1, 2, 3, 4]} <think></think>'] * 20)
    save_policy(folder, *tiny.build(tokenizer, hidden=64, layers=2, vision_hidden=64, vision_layers=2))
    profile = {"dialect": "qwen3_vl", "grammar": "think", "image_first": False}
    (folder / "fovea.json").write_text(json.dumps(profile))
    return folder


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Run eval.py in this process; gives (metrics, rows, printed)."""

    def run(*args):
        out = tmp_path / "out"
        main([*map(str, args), "--out", str(out)])
        rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        return json.loads((out / "metrics.json").read_text()), rows, capsys.readouterr().out

    return run


@pytest.fixture
def jsonl(tmp_path):
    """Write rows to a file and give its path."""

    def write(rows, name="preds.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
