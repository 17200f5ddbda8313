"""eval.py with tools: answers in a crop's coordinates, journals, killed runs, what is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from benchmarks.harness.backends.episode_model import EpisodeModel
from benchmarks.harness.backends.generate import Decoding, Request, generate, read_generations
from benchmarks.harness.backends.local_model import LocalModel
from benchmarks.harness.backends.opening import tools_of
from benchmarks.harness.cli import main
from benchmarks.harness.io.predictions import PredictionFormat, read_output
from benchmarks.harness.items import BenchmarkItem, ItemImage, Truth
from benchmarks.harness.official_frame import canonical
from grounding.errors import UsageError
from grounding.io import open_image
from grounding.sample import ImageRef
from models.loading import load_policy
from models.profile import Profile
from tools.loop import LocalTurns
from tools.section import ToolsConfig

PROFILE = Profile("qwen3_vl", "think", image_first=False)
ZOOM = '<think>There.</think>\nzoom({"bbox_2d": [500, 0, 1000, 500]})'
ANSWER = '<think>Here.</think>\n{"bbox_2d": [0, 0, 500, 500]}'


@pytest.fixture(scope="module")
def local(random_model):
    return LocalModel(*load_policy(random_model), image_first=False)


@pytest.fixture
def backend(local, monkeypatch):
    """The model says what its script says, by the number of pictures a tool has shown it."""
    made = EpisodeModel(local, ToolsConfig.from_given({"use": "zoom", "turns": 3}), PROFILE)
    tokenizer = local.processor.tokenizer
    made.died_after = None

    def draw(self, rows):
        if made.died_after == 0:
            raise KeyboardInterrupt
        made.died_after = None if made.died_after is None else made.died_after - 1
        said = [ANSWER if row.pictures else ZOOM for row in rows]
        return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in said]

    monkeypatch.setattr(LocalTurns, "_draw", draw)
    return made


def items_of(screens, count=6):
    lines = (screens / "test.jsonl").read_text().splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return [
        BenchmarkItem(row["id"], (ItemImage(i["path"], i["width"], i["height"]),), row["instruction"], Truth(), "box")
        for row in rows
        for i in row["images"]
    ]


def answer(backend, screens, folder, items):
    generate(backend, items, screens, lambda i: i.instruction, decoding=Decoding(), folder=folder, batch_size=2)
    return read_generations(folder)


def test_an_answer_in_a_crop_is_scored_in_the_image(backend, screens, tmp_path):
    items = items_of(screens)
    found = answer(backend, screens, tmp_path, items)
    for item in items:
        line = found[item.id, 0]
        reading = PredictionFormat(dialect="qwen3_vl", grammar="think")
        reply = read_output(line.output, item, reading, line.seen, episode=line.episode)
        width, height = item.images[0].width, item.images[0].height
        frame = line.episode["frame"]
        assert frame["pixels"] == [width // 2, 0, width, height // 2]
        left, top, right, bottom = reply.prediction.boxes[0]
        box = canonical((left, top, right, bottom), item, 0)
        assert box == pytest.approx((0.5, 0.0, 0.75, 0.25), abs=0.001)
        assert [turn["tool"] for turn in reply.turns] == ["zoom", None]
        assert reply.turns[0]["shown"] == [0.5, 0.0, 1.0, 0.5] and line.cost["passes"] == 2


def test_a_killed_run_goes_on_to_the_same_journal(backend, screens, tmp_path):
    items = items_of(screens)
    whole = answer(backend, screens, tmp_path / "whole", items)
    backend.died_after = 3
    with pytest.raises(KeyboardInterrupt):
        answer(backend, screens, tmp_path / "killed", items)
    backend.died_after = None
    assert answer(backend, screens, tmp_path / "killed", items) == whole
    first, second = ((tmp_path / name / "generations.jsonl").read_bytes() for name in ("whole", "killed"))
    assert first == second


def test_a_call_in_the_last_turn_is_no_answer(local, backend, screens, monkeypatch):
    backend.toolbox.config = backend.toolbox.config.model_copy(update={"turns": 1})
    item = items_of(screens, 1)[0]
    image = open_image(screens, ImageRef(item.images[0].path, item.images[0].width, item.images[0].height))
    ((output,),) = backend.generate([Request("the red square", (image,))], Decoding(), 0)
    assert output.text == "" and output.episode["turns"][0]["error"]


def test_the_command_from_end_to_end(random_model, screens, tmp_path, capsys):
    given = ["--model", str(random_model), "--data", str(screens), "--limit", "4", "--device", "cpu"]
    given += ["--out", str(tmp_path / "out"), "--max-new-tokens", "4", "--tools", "zoom"]
    assert main(given) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(len(row["turns"]) == 1 for row in rows)
    with pytest.raises(UsageError, match="another tools"):
        main([*given[:-1], "zoom,mark"])
    assert main(given) == 0


class TestFlag:
    def test_names_mappings_and_recipes(self, tmp_path):
        assert list(tools_of("zoom,mark").build()) == ["zoom", "mark"]
        assert tools_of("{use: [zoom], turns: 5}").turns == 5
        recipe = tmp_path / "r.yaml"
        recipe.write_text(
            yaml.safe_dump({"stages": [{"tools": "mark"}, {"tools": {"use": ["zoom"], "turns": 2}}, {}]})
        )
        assert tools_of(str(recipe)).turns == 2
        assert tools_of("configs/recipes/zoom.yaml").reply == "{question}"

    def test_what_is_wrong_is_named(self, tmp_path):
        with pytest.raises(UsageError, match="no such file"):
            tools_of("nowhere.yaml")
        (tmp_path / "r.yaml").write_text("stages: [{kind: sft}]")
        with pytest.raises(UsageError, match="no stage of this recipe has tools"):
            tools_of(str(tmp_path / "r.yaml"))
        with pytest.raises(UsageError, match="did you mean 'zoom'"):
            tools_of("zom")

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--method", "vote"], "--method asks for single answers"),
            (["--backend", "vllm"], "--tools has no effect"),
        ],
    )
    def test_what_tools_do_not_go_with(self, random_model, screens, tmp_path, more, message):
        given = ["--model", str(random_model), "--data", str(screens), "--out", str(tmp_path), "--tools", "zoom"]
        with pytest.raises(UsageError, match=message):
            main([*given, *more])
