"""A source, a reward, a strategy, a stage and a benchmark of one file outside the repository, in every command."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import train
from benchmarks.harness.cli import main as evaluate
from data_prep.__main__ import main as prepare
from tests.recipes.tiny import make_model

MINE = """
import json, shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks import BENCHMARKS
from benchmarks.harness.benchmark import Benchmark
from benchmarks.harness.items import BenchmarkItem, Card, ItemImage, Rule, Truth
from credit.strategies import Signals, strategy
from data_prep import Item, source
from grounding.sample import ImageRef, Sample
from grounding.targets import Box
from recipes.stage import STAGES, Stage
from rewards import reward


@source("corners", reads="corners.json", license="CC0-1.0")
def convert(args):
    for row in json.loads((args.root / "corners.json").read_text()):
        image = ImageRef(f"images/{row['file']}", 96, 96)
        sample = Sample(row["file"], (image,), "click the corner", Box(0, 0, 0.25, 0.25), "corners", "CC0-1.0")
        yield Item(sample, {image.path: args.root / row["file"]})


@reward("near_corner", range=(0, 1), source="ours", kinds=("box",))
def near_corner(answer, sample):
    return 0.25 if answer.ok else 0.125


@strategy("first_tokens", needs=set())
def first_tokens(signals: Signals, mask, *, count: int = 2):
    weights = mask.float()
    weights[:, :count] *= 3
    return weights


@dataclass
class CopyArguments:
    word: str = "none"


@STAGES.register("copy_model")
class CopyModel(Stage):
    args_type = CopyArguments

    def run(self):
        shutil.copytree(self.job.model_path, self.job.folder / "model")
        (self.job.folder / "model/word.txt").write_text(self.job.spec.args["word"])


@BENCHMARKS.register("corner_clicks")
class CornerClicks(Benchmark):
    answer_kind = "point"
    rule = Rule(boundary="half_open")
    card = Card("Corner clicks", "none", "made by the test", "CC0-1.0", "corners.json", "inside the corner")

    def read(self, root: Path, split: str):
        for row in json.loads((root / "corners.json").read_text()):
            truth = Truth(boxes=((0.0, 0.0, 24.0, 24.0),))
            yield BenchmarkItem(row["file"], (ItemImage(row["file"], 96, 96),), "the corner", truth, "point")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package/pointing_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    raw = tmp_path / "raw"
    raw.mkdir()
    for index in range(4):
        Image.new("RGB", (96, 96), (40 * index, 0, 0)).save(raw / f"{index}.png")
    (raw / "corners.json").write_text(json.dumps([{"file": f"{index}.png"} for index in range(4)]))
    return tmp_path


def test_one_file_of_mine_goes_through_every_command(mine, capsys):
    assert prepare(["pointing_of_mine.convert", "--root", str(mine / "raw"), "--out", str(mine / "data")]) in (
        0,
        None,
    )
    samples = [json.loads(line) for line in (mine / "data/train.jsonl").read_text().splitlines()]
    assert [sample["source"] for sample in samples] == ["corners"] * 4

    model = make_model(mine / "model", "qwen3_vl")
    (mine / "recipe.yaml").write_text(f"""
name: mine
output: {mine}/runs
model: {{path: {model}, dialect: qwen3_vl}}
data: {mine}/data
wandb: disabled
stages:
  - kind: pointing_of_mine.CopyModel
    args: {{word: seen}}
  - kind: grpo
    args: {{max_steps: 1, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 4,
            logging_steps: 1}}
    rewards: [pointing_of_mine.near_corner]
    credit: {{strategy: pointing_of_mine.first_tokens, params: {{count: 1}}}}
""")
    assert train.main([str(mine / "recipe.yaml")]) == 0, capsys.readouterr().err
    assert (mine / "runs/mine/0-pointing_of_mine.CopyModel/model/word.txt").read_text() == "seen"
    rows = map(json.loads, (mine / "runs/mine/1-grpo/metrics.jsonl").read_text().splitlines())
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert rewards
    assert all(0.125 <= reward <= 0.25 for reward in rewards)

    predictions = [
        {"id": "0.png", "point": [3, 3]},
        {"id": "1.png", "point": [24, 3]},
        {"id": "2.png", "point": [60, 3]},
    ]
    (mine / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
    named = ["--benchmark", "pointing_of_mine.CornerClicks", "--data", str(mine / "raw"), "--space", "pixel"]
    assert evaluate([*named, "--predictions", str(mine / "predictions.jsonl"), "--out", str(mine / "eval")]) == 0
    verdicts = [json.loads(line) for line in (mine / "eval/results.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in verdicts] == [True, False, False, False]  # the second on the open edge


def test_an_image_that_would_lie_beside_the_rows_is_refused(mine, capsys):
    """Publishing a data set begins by clearing away rows that a killed run left there."""
    parts = ["import json", *(part for part in MINE.split("\n\n\n") if "Sample" in part)]
    text = "\n".join(parts).replace("images/{row['file']}", "{row['file']}").replace('"corners"', '"beside"')
    (mine / "package/beside_mine.py").write_text(text)
    assert prepare(["beside_mine.convert", "--root", str(mine / "raw"), "--out", str(mine / "data")]) == 2
    assert "the source puts the image '0.png' beside the rows; name it images/0.png" in capsys.readouterr().err
