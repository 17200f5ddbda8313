"""A run of every kind of stage with wandb, log_completions and pictures: its tables are read back."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from transformers import set_seed

import recipes.grpo
from grounding.answer import Answer, Status
from grounding.io import write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Box, Boxes, Point, Span
from recipes.callbacks import read_metrics
from recipes.records.tracking import BESIDE, DrawnRollouts, ShownRollout, WandbTracker, samples_file
from recipes.runner import jobs_of, run_recipe
from recipes.stage import STAGES
from tests.recipes.test_loops import recipe_of, stage
from tests.recipes.tiny import make_data, make_model

LOGGED = {"log_completions": True, "num_completions_to_print": 1}
SAID = '{"bbox_2d": [100, 200, 300, 400]}'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    set_seed(0)  # its weights, and so what it answers
    return make_model(tmp_path_factory.mktemp("model") / "qwen3_vl", "qwen3_vl")


def two_pictures(folder):
    """Samples of two images each, the target in the second."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (96, 96), "white").save(folder / "images/a.png")
    Image.new("RGB", (96, 64), "blue").save(folder / "images/b.png")
    images = (ImageRef("images/a.png", 96, 96), ImageRef("images/b.png", 96, 64))
    target = Box(0.25, 0.5, 0.75, 1.0, 1)
    write_samples(
        folder / "train.jsonl",
        [Sample(f"pair-{n}", images, f"the blue one {n}", target, "pairs", "CC0-1.0") for n in range(10)],
    )
    return folder


def tables_of(folder):
    """The tables of rollouts that a stage logged, in order; and the overlays of their pictures."""
    files = folder.glob("wandb/offline-run-*/files/media/table/rollouts_*.table.json")
    tables = sorted((json.loads(file.read_text()) for file in files), key=lambda table: table["data"][0][0])
    overlays = [json.loads(file.read_text())
                for file in folder.glob("wandb/offline-run-*/files/media/metadata/**/*.json")]  # fmt: skip
    return tables, [box for overlay in overlays for box in overlay.get("box_data", ())]


@pytest.mark.slow
def test_every_kind_of_stage_finishes_and_its_tables_are_read_back(model, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes.grpo, "chat_text", lambda chat: SAID)  # random models never answer
    data = two_pictures(tmp_path / "data")
    stages = [
        stage("select"),
        stage("filter", data={"kept": True}, args={"attention": False, "min_side": 0.0}),
        stage("sft", data={"kept": True}, args={"max_steps": 1}),
        stage("rejection", args={"max_steps": 1}),
        stage("dpo", args={"max_steps": 1}),
        stage("rloo", args={"max_steps": 1, **LOGGED}),
        stage("distill", args={"max_steps": 1, "teacher_model_name_or_path": str(model), **LOGGED}),
        stage("grpo", args={"max_steps": 1, **LOGGED}),
    ]
    assert {one["kind"] for one in stages} == set(STAGES)  # a new kind has to be tried here
    recipe = recipe_of(model, data, tmp_path, *stages, wandb="offline", tracker="wandb")
    run_recipe(recipe)
    shown = {"select": 8, "rejection": 8, "dpo": 8, "rloo": 2, "distill": 4, "grpo": 2}  # rows, at most
    for job in jobs_of(recipe):
        assert (job.folder / "DONE").exists()
        kind, (tables, boxes) = job.spec.kind, tables_of(job.folder)
        if kind not in shown:
            assert not tables and not samples_file(job).exists()  # nothing is drawn
            continue
        rows = read_metrics(samples_file(job))
        assert 1 <= len(rows) <= shown[kind], kind
        [table] = tables
        assert len(table["data"]) == len(rows)
        for cells, row in zip(table["data"], rows, strict=True):
            assert cells[0] == row["step"] and cells[2:5] == [row["sample"], row["question"], row["completion"]], kind
            assert json.loads(cells[5]).keys() == row["rewards"].keys()
            assert cells[1] == "Image"  # which lies in the table's artifact, and beside it
        files = job.folder.glob("wandb/offline-run-*/files/media/images/rollouts_pictures*")
        assert {Image.open(file).size for file in files} == {(192, 96)}  # equal pictures are one file
        targets = [box["position"] for box in boxes if box["box_caption"] == "target"]
        # the second image begins at half the width, and is two thirds as high as the first
        wanted = {"minX": 0.625, "minY": pytest.approx(1 / 3), "maxX": 0.875, "maxY": pytest.approx(2 / 3)}
        assert targets and all(place == wanted for place in targets), kind
        assert len(list(job.folder.glob("wandb/offline-run-*/*.wandb"))) == 1
        assert (job.folder / "samples.html").read_text().count("<img") == len(rows)
        if "log_completions" in job.spec.args:
            for file in job.folder.glob("wandb/offline-run-*/files/media/table/completions_*.table.json"):
                own = json.loads(file.read_text())
                assert len(own["data"]) > 0 and "completion" in own["columns"]
            assert file.exists()


def rollout(images, target, **answer):
    sample = Sample(
        "s", tuple(ImageRef(f"{n}.png", *i.size) for n, i in enumerate(images)), "it", target, "x", "CC0-1.0"
    )
    return ShownRollout(sample, images, "said", Answer(Status.OK, **answer), {"iou": 0.5})


def test_of_many_pictures_those_with_a_place_are_shown():
    images = [Image.new("RGB", (64, 48), (n, 0, 0)) for n in range(40)]
    one = rollout(images, Boxes((Box(0, 0, 1, 1, 17), Box(0, 0, 1, 1, 33))), points=(Point(0.5, 0.5, 38),))
    assert len(one.shown) == BESIDE and {17, 33, 38} <= set(one.shown) and one.shown == sorted(one.shown)
    assert one.picture().size == (64 * BESIDE, 48)
    assert {region.image for region, _ in one.placed} == {one.shown.index(image) for image in (17, 33, 38)}
    assert rollout(images, Span(1, 2)).shown[0] == 0 and rollout(images, Span(1, 2)).placed == []
    assert rollout(images[:3], Span(1, 2)).shown == [0, 1, 2]


def test_a_drawing_stage_shows_the_best_and_the_worst_while_it_draws(tmp_path):
    data = make_data(tmp_path / "data", count=2)
    (job,) = jobs_of(recipe_of("m", data, tmp_path, stage("select")))
    job.folder.mkdir(parents=True)
    drawn, image = DrawnRollouts(job), Image.new("RGB", (32, 32))
    one = rollout([image], Box(0, 0, 1, 1))
    answers = [Answer(Status.OK, boxes=(Box(0, 0, 1, at / 4),)) for at in (1, 2, 3)]
    row = {"sample": one.sample, "images": [image]}
    for _ in range(3):
        drawn.add(row, ["a", "b", "c"], answers, [0.5, 1.0, None])
        assert not samples_file(job).exists()
    drawn.add(row, ["only"], answers[:1], [None])
    assert drawn.full
    rows = read_metrics(samples_file(job))
    assert [row["completion"] for row in rows] == ["b", "a"] * 3 + ["only"]
    assert rows[0]["rewards"] == {"weighted sum": 1.0} and rows[-1]["rewards"] == {"weighted sum": None}
    drawn.write()
    assert read_metrics(samples_file(job)) == rows  # once


def test_a_table_of_wandb_takes_rows_of_one_and_of_several_pictures():
    logged = []

    class Log:
        def log(self, values):
            logged.append(values)

    wide, high = Image.new("RGB", (640, 320)), Image.new("RGB", (320, 640))
    rows = [rollout([wide], Box(0.1, 0.2, 0.3, 0.4)), rollout([wide, high], Point(0.5, 0.5, 1))]
    WandbTracker(Log()).show(3, rows)
    pictures = logged[0]["rollouts_pictures"]
    assert [(one._width, one._height) for one in pictures] == [(320, 160), (480, 320)]
    assert pictures[0]._boxes["target"]._val[0]["position"] == {"minX": 0.1, "minY": 0.2, "maxX": 0.3, "maxY": 0.4}
    place = pictures[1]._boxes["target"]._val[0]["position"]
    assert (place["minX"] + place["maxX"]) / 2 == pytest.approx(400 / 480)


@pytest.mark.slow
def test_rollouts_are_in_trackio(model, tmp_path, monkeypatch):
    storage = pytest.importorskip("trackio.sqlite_storage", reason="needs Trackio: pip install trackio").SQLiteStorage
    home = pytest.importorskip("trackio.utils").TRACKIO_DIR
    if home.exists() and any(home.glob("*.db")):
        pytest.skip(f"{home} holds runs of the user's; set TRACKIO_DIR to an empty folder")
    monkeypatch.setattr(recipes.grpo, "chat_text", lambda chat: SAID)
    recipe = recipe_of(
        model, two_pictures(tmp_path / "data"), tmp_path, stage("grpo", args={"max_steps": 2, **LOGGED}),
        tracker="trackio", project="mine",
    )  # fmt: skip
    run_recipe(recipe)
    (job,) = jobs_of(recipe)
    rows = read_metrics(samples_file(job))
    logs = storage.get_logs("mine", "run/0-grpo")
    tables = [log["rollouts"]["_value"] for log in logs if "rollouts" in log]
    shown = [row for table in tables for row in table]
    assert [(row["step"], row["sample"], row["completion"]) for row in shown] == [
        (row["step"], row["sample"], row["completion"]) for row in rows
    ]
    for row in shown:
        picture = Image.open(home / "media" / row["picture"]["file_path"])
        assert picture.size == (192, 96)
    assert [log["train/reward"] for log in logs if "train/reward" in log]
    assert not list(job.folder.rglob("wandb"))
