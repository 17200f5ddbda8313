"""Rows for TRL: prompts in the recipe's order, lazily opened images, sizes as the processor shows them, loss mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from grounding.dialects import get_dialect
from grounding.errors import BrokenRow, UsageError
from grounding.io import read_samples, write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Point, Polygon
from models.loading import load_processor
from recipes.config import DataSpec, ModelSpec
from recipes.data import build_dataset
from tests.recipes.tiny import DIALECTS, make_data, make_model


@pytest.fixture(scope="module", params=list(DIALECTS))
def model(request, tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp(request.param), request.param)
    return ModelSpec(path=str(folder), dialect=DIALECTS[request.param])


@pytest.fixture(scope="module")
def processor(model):
    return load_processor(model.path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), count=4, size=(100, 70))


def test_a_row_holds_what_trainer_and_rewards_read(model, processor, folder):
    row = build_dataset(DataSpec(path=str(folder)), model, processor)[2]
    sample = row["sample"]
    assert sample.id == "square-2"
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["image", "text"]
    assert sample.instruction in row["prompt"][0]["content"][1]["text"]
    assert [image.size for image in row["images"]] == [(100, 70)]
    (size,) = row["sizes"]
    # InternVL sees tiles of one size
    factor = 56 if model.dialect == "internvl" else 2 * processor.image_processor.patch_size
    assert (size.width, size.height) == (100, 70)
    assert size.input_width % factor == size.input_height % factor == 0
    assert row["answer_kind"] == "box"
    assert "completion" not in row


def test_the_instruction_may_stand_before_the_image(model, processor, folder):
    spec = ModelSpec(path=model.path, dialect=model.dialect, image_first=False, system="Point at things.")
    prompt = build_dataset(DataSpec(path=str(folder)), spec, processor)[0]["prompt"]
    assert [message["role"] for message in prompt] == ["system", "user"]
    assert [part["type"] for part in prompt[1]["content"]] == ["text", "image"]


def test_the_completion_is_the_right_answer_in_the_models_words(model, processor, folder):
    row = build_dataset(DataSpec(path=str(folder)), model, processor, with_completion=True)[1]
    sample = row["sample"]
    dialect = get_dialect(model.dialect)
    sizes = build_dataset(DataSpec(path=str(folder)), model, processor)[1]["sizes"]
    assert row["sizes"] == sizes
    text = row["completion"][0]["content"]
    assert sample.thought in text
    answer = dialect.parse(text, sizes, answer_kind="box")
    assert answer.ok
    assert answer.strict
    assert answer.box.xyxy == pytest.approx(sample.target.xyxy, abs=0.01)


def test_the_loss_is_on_the_response_alone(model, processor, folder):
    """Labels decode to exactly the completion and its end of turn, whatever the padding."""
    dataset = build_dataset(DataSpec(path=str(folder)), model, processor, with_completion=True)
    rows = [dataset[index] for index in range(4)]
    completions = [row["completion"][0]["content"] for row in rows]
    rows[1]["completion"][0]["content"] = completions[1] = "short"
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    for labels, ids, mask, completion in zip(
        batch["labels"], batch["input_ids"], batch["attention_mask"], completions, strict=True
    ):
        trained = labels[labels != -100]
        assert processor.tokenizer.decode(trained) == f"{completion}<|im_end|>\n"
        assert (ids[labels != -100] == trained).all()
        assert not (labels[mask == 0] != -100).any()


def test_images_are_opened_only_when_a_row_is_read(model, processor, tmp_path):
    data = make_data(tmp_path, count=3)
    (data / "images/1.png").write_bytes(b"not an image")
    (data / "images/2.png").unlink()
    dataset = build_dataset(DataSpec(path=str(data)), model, processor)
    assert len(dataset) == 3
    assert dataset[0]["images"]
    with pytest.raises(BrokenRow, match=r"images/1\.png"):
        dataset[1]
    with pytest.raises(BrokenRow, match=r"images/2\.png"):
        dataset[2]


def test_an_image_of_another_size_than_the_row_says_is_a_broken_row(model, processor, tmp_path):
    data = make_data(tmp_path, count=1)
    Image.new("RGB", (50, 50)).save(data / "images/0.png")
    with pytest.raises(BrokenRow, match="50x50"):
        build_dataset(DataSpec(path=str(data)), model, processor)[0]


def test_files_folders_and_lists_of_them_are_read(model, processor, tmp_path):
    one, other = make_data(tmp_path / "a", count=3), make_data(tmp_path / "b", count=2, suffix="parquet")
    spec = DataSpec(path=[str(one / "train.jsonl"), str(other)])
    assert len(build_dataset(spec, model, processor)) == 5
    assert len(build_dataset(DataSpec(path=spec.path, limit=1), model, processor)) == 2
    with pytest.raises(UsageError, match=r"no val\.jsonl or val\.parquet"):
        build_dataset(DataSpec(path=spec.path[1:], split="val"), model, processor)
    with pytest.raises(UsageError, match="no such file"):
        build_dataset(DataSpec(path=str(tmp_path / "c")), model, processor)
    write_samples(tmp_path / "none.jsonl", [])
    with pytest.raises(UsageError, match="no samples"):
        build_dataset(DataSpec(path=str(tmp_path / "none.jsonl")), model, processor)


def test_a_row_that_is_no_sample_is_named_at_once(model, processor, tmp_path):
    data = make_data(tmp_path, count=3)
    lines = (data / "train.jsonl").read_text().splitlines()
    (data / "train.jsonl").write_text("\n".join([lines[0], lines[1].replace("0.", "7.", 1)]))
    with pytest.raises(BrokenRow, match=r"train\.jsonl:2"):
        build_dataset(DataSpec(path=str(data)), model, processor)


def test_what_is_asked_for_does_not_give_the_answer_away():
    def sample(target, **meta):
        return Sample("x", (ImageRef("a.png", 9, 9),), "find it", target, "s", "l", meta=meta)

    assert sample(Absent()).answer_kind == "box"
    assert sample(Absent(), ask="point").answer_kind == "point"
    assert sample(Polygon(((0, 0), (1, 0), (1, 1)))).answer_kind == "box"
    assert sample(Point(0.5, 0.5)).answer_kind == "point"
    assert sample(Point(0.5, 0.5), ask="box").answer_kind == "box"


@pytest.mark.parametrize("ask", [None, "box", "point"])
def test_what_the_recipe_asks_for_comes_first(model, processor, tmp_path, ask):
    folder = make_data(tmp_path, count=2)
    rows = list(read_samples(folder / "train.jsonl"))
    write_samples(folder / "train.jsonl", [replace(rows[0], target=Absent()), rows[1]])
    dataset = build_dataset(DataSpec(path=str(folder), answer_kind=ask), model, processor)
    assert [row["answer_kind"] for row in dataset] == [ask or "box"] * 2


def test_answers_without_a_thought_are_not_learned_in_silence(model, processor, tmp_path, caplog):
    folder = make_data(tmp_path, count=4)
    rows = list(read_samples(folder / "train.jsonl"))
    write_samples(folder / "train.jsonl", [replace(row, thought=None) for row in rows[:3]] + rows[3:])
    spec = DataSpec(path=str(folder))
    build_dataset(spec, model, processor, with_completion=True)
    assert "3 of 4 samples have no thought" in caplog.text
    caplog.clear()
    build_dataset(spec, model, processor)
    build_dataset(spec, model.model_copy(update={"grammar": "bare"}), processor, with_completion=True)
    assert caplog.text == ""
