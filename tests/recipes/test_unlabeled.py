"""A benchmark as an unlabeled training set: no reward can find its answers, and none can be scored against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Real

import pytest
from PIL import Image
from transformers import set_seed

from benchmarks.harness.io.data_sets import read_split
from data_prep.__main__ import main as data_prep
from grounding.errors import UsageError
from grounding.io import read_samples
from grounding.targets import Unlabeled
from recipes.runner import dry_run, run_recipe
from tests.recipes.test_loops import recipe_of, stage
from tests.recipes.tiny import make_model

# x, y, w, h and the corner, in pixels of 400 x 300 and as shares of it: numbers that nothing else here has
BOX, CORNER = [137, 211, 43, 29], [180, 240]
SECRET = {137, 211, 43, 180, 240, 137 / 400, 211 / 300, 180 / 400, 240 / 300, 0.137, 0.211}
SEEN = []


def peeking(completions, completion_ids, **columns):
    """A reward that goes through everything it is given, and pays for what it finds."""
    numbers = set(numbers_in(columns))
    SEEN.append(numbers)
    return [float(bool(numbers & SECRET)) + sum(ids) % 97 / 970 for ids in completion_ids]


def numbers_in(thing, depth=0):
    """Every number that can be reached from a value through fields and items, those written in texts too."""
    if isinstance(thing, str):
        digits = "".join(letter if letter.isdigit() or letter == "." else " " for letter in thing)
        yield from (float(word) for word in digits.split() if word.count(".") < 2 and word != ".")
    elif isinstance(thing, Real):
        yield float(thing)
    elif isinstance(thing, Mapping):
        yield from numbers_in([*thing.keys(), *thing.values()], depth)
    elif isinstance(thing, list | tuple | set):
        for part in thing:
            yield from numbers_in(part, depth)
    elif is_dataclass(thing) and depth < 9:
        yield from numbers_in([getattr(thing, field.name) for field in fields(thing)], depth + 1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """ScreenSpot-v2's files, eight questions about two pictures, and one about a picture that is not there."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "images").mkdir()
    names = [f"web_{letter}.png" for letter in "ab"]
    for shade, name in enumerate(names):
        Image.new("RGB", (400, 300), (90 * shade, 20, 20)).save(folder / "images" / name)
    rows = [
        {"img_filename": names[number % 2], "bbox": BOX, "instruction": f"press {word}", "data_type": "icon",
         "data_source": "shop"}
        for number, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"])
    ]  # fmt: skip
    rows.append({**rows[0], "img_filename": "web_gone.png"})
    (folder / "screenspot_web_v2.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def data(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "unlabeled"
    command = ["benchmark", "screenspot_v2", "--root", str(raw), "--out", str(folder), "--max-rejects", "0.2"]
    assert data_prep([*command, "--split", "wbe"]) == 2
    assert data_prep([*command, "--split", "web"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    set_seed(0)
    return make_model(tmp_path_factory.mktemp("model"), "qwen3_vl")


def test_the_questions_are_there_and_the_answers_are_not(data):
    samples = list(read_samples(data / "train.jsonl"))
    assert [one.words for one in samples] == [
        f"press {word}" for word in ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    ]
    assert {one.target for one in samples} == {Unlabeled()}
    assert {one.answer_kind for one in samples} == {"point"}  # what the benchmark asks for
    assert json.loads((data / "manifest.json").read_text())["rejects"] == {"missing image": 1}
    texts = [file.read_text() for file in data.rglob("*.json*")]
    assert not {number for text in texts for number in numbers_in(text)} & {211, 43, 211 / 300}
    with pytest.raises(UsageError, match=r"no label to score against.*eval\.py --benchmark screenspot_v2 --data DIR"):
        list(read_split(data, "train", None))


def test_no_reward_can_read_what_is_right(model, data, tmp_path):
    SEEN.clear()
    vote = stage("grpo", rewards=[f"{__name__}:peeking", "region_consistency"])
    recipe = recipe_of(model, data, tmp_path, vote)
    assert "region_consistency on unlabeled " in "\n".join(dry_run(recipe))
    run_recipe(recipe)
    assert len(SEEN) > 2
    assert not set().union(*SEEN) & SECRET
    assert all({400.0, 300.0} <= seen for seen in SEEN)  # it did look


def test_what_needs_a_label_is_refused(model, data, tmp_path):
    for wrong, said in (
        (stage("grpo", rewards=["iou"]), "reward 'iou' scores targets of kind box.*is of kind 'unlabeled'"),
        (stage("grpo", rewards=["abstention"]), "'abstention' needs to know what is there.*has no label"),
        (stage("sft"), "a sample without a label .* has no right answer to be written"),
    ):
        with pytest.raises(UsageError, match=said):
            list(dry_run(recipe_of(model, data, tmp_path, wrong)))
