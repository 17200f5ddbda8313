"""From a file of one's own to a training step in two commands, or in one; no YAML and no mapping is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from data_prep.__main__ import main as data_prep
from grounding.io import read_samples
from recipes import data as recipe_data
from recipes.callbacks import read_metrics
from tests.data_prep.helpers_data import write_json
from tests.data_prep.test_import import by_caption, coco, folder, objects, pixels, table, talk  # noqa: F401
from train import main as train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(folder, monkeypatch):  # noqa: F811
    """The working folder with the repository's recipe and model, and pictures that the tiny model can take."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "assets").symlink_to(ROOT / "assets")
    recipe_data.imported.cache_clear()
    return folder


def csv_file(place):
    lines = [f"{number}.jpg,the {name} {row},{','.join(map(str, box))}" for row, (number, name, box) in
             enumerate(objects())]  # fmt: skip
    (place / "mine.csv").write_text("\n".join(["image,instruction,x1,y1,x2,y2", *lines]) + "\n")
    return "mine.csv"


def coco_file(place):
    coco(place, caption=lambda row: f"the {objects()[row][1]} {row}")
    return "coco.json"


def chat_file(place):
    rows = [talk(number, f"the {name} {row}", json.dumps({"bbox_2d": box}))
            for row, (number, name, box) in enumerate(objects())]  # fmt: skip
    write_json(place / "chat.json", rows)
    return "chat.json"


STEP = ("stages.0.args.max_steps=1", "stages.0.args.per_device_train_batch_size=2", "tracker=none")


def one_stage(place):
    """The recipe without its second stage, which only takes time here."""
    recipe = yaml.safe_load((place / "configs/recipes/your_data.yaml").read_text())
    recipe["stages"] = recipe["stages"][:1]
    (place / "one.yaml").write_text(yaml.safe_dump(recipe))
    return "one.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("write", [csv_file, coco_file, chat_file])
def test_a_file_is_trained_on_after_two_commands(place, write, capsys):
    file = write(place)
    assert data_prep(["import", file, "--images", "shots", "--out", "data/mine"]) == 0
    told = capsys.readouterr().out
    words = told.splitlines()[-1].split()[3:]  # next:  python train.py RECIPE ...
    assert train([*words, "tracker=none", "--dry-run"]) == 0
    samples = [sample for file in Path("data/mine").glob("*.jsonl") if file.stem in ("train", "val")
               for sample in read_samples(file)]  # fmt: skip
    assert pixels(samples) == by_caption(objects())
    assert train([one_stage(place), *words[1:3], *STEP]) == 0
    assert [row["step"] for row in read_metrics(Path("runs/mine/0-sft/metrics.jsonl"))] == [1, 1]
    assert (place / "runs/mine/final/config.json").exists()


@pytest.mark.slow
def test_a_recipe_takes_the_file_itself(place, caplog):
    file = csv_file(place)
    words = [one_stage(place), f"data.path={file}", "data.images=shots", "name=mine", *STEP]
    with caplog.at_level("INFO", logger="fovea"):
        assert train([*words, "--dry-run"]) == 0
        assert train(words) == 0
    assert "data mine.csv: CSV" in caplog.text and "pixels, xyxy: 100%" in caplog.text
    (made,) = Path("data/imported").iterdir()
    found = [sample for name in ("train", "val") for sample in read_samples(made / f"{name}.jsonl")]
    assert pixels(found) == by_caption(objects())
    recipe_data.imported.cache_clear()
    assert train(words) == 0  # finished: skipped, and imported once
    assert len(list(Path("data/imported").iterdir())) == 1
    content = (place / file).read_text().replace("the cat", "a cat")
    (place / file).write_text(content)
    recipe_data.imported.cache_clear()
    assert train(words) == 2  # the stage was trained on another content
    assert len(list(Path("data/imported").iterdir())) == 2


def test_what_a_file_leaves_open_is_said_in_the_recipes_words(place, capsys):
    write_json(place / "rows.json", table(objects())[:4])
    words = [
        "configs/recipes/your_data.yaml",
        "data.path=rows.json",
        "data.images=shots",
        "--dry-run",
        "tracker=none",
    ]
    assert train(words) == 2
    assert "say data.space: pixel|thousandth|percent|fraction" in capsys.readouterr().err
