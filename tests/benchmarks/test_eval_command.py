"""eval.py with a model: what it refuses before it runs, what it answer_kind, and when old answers count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.fovea_data import Screens
from benchmarks.harness import run
from benchmarks.harness.cli import main
from grounding.errors import UsageError
from grounding.folders import writing
from grounding.io import write_samples
from grounding.sample import ImageRef, Sample
from grounding.targets import Absent, Box, Point, Span, TextBox
from tests.rewards.serving import chat, serve

ROOT = Path(__file__).parents[2]


@pytest.fixture
def few(screens, tmp_path):
    """A data set of two of the screens, to be changed at will."""
    root = tmp_path / "few"
    shutil.copytree(screens, root)
    lines = (root / "test.jsonl").read_text().splitlines(keepends=True)[:2]
    (root / "test.jsonl").write_text("".join(lines))
    return root


@pytest.fixture
def model(random_model, tmp_path):
    return shutil.copytree(random_model, tmp_path / "model")


def ask(model, data, out, *more):
    main(["--model", str(model), "--data", str(data), "--out", str(out), "--max-new-tokens", "4", "--device", "cpu",
          *map(str, more)])  # fmt: skip


def change_a_weight(model):
    file = model / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += 1.0
    save_file(tensors, file, {"format": "pt"})


def repaint(data):
    file = data / "images" / "0.png"
    shutil.copy(data / "images" / "2.png", file)


def edit(name, **values):
    def change(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def test_old_answers_count_only_while_nothing_that_decides_them_changed(model, few, tmp_path, monkeypatch):
    out = tmp_path / "out"
    ask(model, few, out)
    kept = (out / "generations.jsonl").read_bytes()
    moved = shutil.copytree(model, tmp_path / "moved")
    for file in moved.iterdir():
        os.utime(file, (1, 1))
    ask(moved, few, out)  # the same model elsewhere
    changes = [
        (change_a_weight, "model.weights"),
        (edit("fovea.json", system="be brief"), "profile.system, model.config"),
        (edit("tokenizer_config.json", model_max_length=77), "model.tokenizer"),
    ]
    for change, key in changes:
        other = shutil.copytree(model, tmp_path / key)
        change(other)
        with pytest.raises(UsageError, match=f"answers made with another {key}; use another --out, or --restart"):
            ask(other, few, out)
    with pytest.raises(UsageError, match="another dtype"):
        ask(model, few, out, "--dtype", "bfloat16")
    with pytest.raises(UsageError, match="another attention"):
        ask(model, few, out, "--attn", "eager")
    repaint(few)
    with pytest.raises(UsageError, match=r"another data\.images"):
        ask(model, few, out)
    assert (out / "generations.jsonl").read_bytes() == kept
    change_a_weight(model)
    ask(model, few, out, "--restart")
    assert (out / "generations.jsonl").read_bytes() != kept


def test_answers_survive_a_restart_that_cannot_start(model, few, tmp_path):
    out = tmp_path / "out"
    ask(model, few, out)
    (model / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="no weights"):
        ask(model, few, out, "--restart")
    assert (out / "generations.jsonl").is_file()


@pytest.mark.parametrize("model", ["runs/typo", "typo"])
def test_a_wrong_model_is_refused_before_anything_large_is_imported(model, few, tmp_path):
    code = (
        "import sys\nfrom benchmarks.harness.cli import main\nfrom grounding.errors import UsageError\n"
        "try:\n    main(sys.argv[1:])\nexcept UsageError as error:\n    print(error)\n"
        "print([name for name in ('torch', 'transformers', 'scipy', 'datasets', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "--model", model, "--data", str(few), "--out", str(tmp_path / "out")]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=offline)
    assert f"--model {model}: no such folder" in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_a_second_run_into_the_same_folder_is_refused(random_model, few, tmp_path):
    with writing(tmp_path / "out"), pytest.raises(UsageError, match="another run is writing here"):
        ask(random_model, few, tmp_path / "out")
    with writing(tmp_path / "out"), pytest.raises(UsageError, match="another run is writing here"):
        main(["--data", str(few), "--predictions", "p.jsonl", "--out", str(tmp_path / "out")])


def test_a_wrong_model_is_named_before_anything_else(few, tmp_path):
    with pytest.raises(UsageError, match=r"--model runs/none: no such folder|--model runs/none: .*Hugging Face"):
        ask("runs/none", few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dialect", "qwen2_5_vl"], "pixels of the image as the server resizes it.*give the server's --max-pixels"),
        (["--dialect", "qwen3_vl", "--dtype", "bfloat16"], "--dtype has no effect with --endpoint"),
        (["--dialect", "qwen3_vl", "--min-pixels", "9"], "--min-pixels needs --max-pixels"),
        (["--dialect", "qwen3_vl", "--key-variable", "NO_SUCH_KEY"], "variable NO_SUCH_KEY.*is not set"),
        ([], "which coordinates does it answer in"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused_before_it_is_asked(few, tmp_path, flags, message):
    with serve(chat("no")) as server, pytest.raises(UsageError, match=message):
        main(["--endpoint", server.url, "--model", "m", "--data", str(few), "--out", str(tmp_path / "out"), *flags])
    assert server.requests == []


def test_an_endpoint_is_asked_with_its_key_and_its_name_belongs_to_the_answers(few, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "s3cret")
    out = tmp_path / "out"
    flags = ["--data", str(few), "--out", str(out), "--dialect", "qwen2_5_vl", "--max-pixels", "50176",
             "--key-variable", "SERVER_KEY"]  # fmt: skip
    with serve(chat('{"bbox_2d": [1, 2, 3, 4]}')) as server:
        url = server.url.replace("//", "//ann:pa55@")
        main(["--endpoint", url, "--model", "m", *flags])
        assert server.requests[0]["headers"]["Authorization"] == "Bearer s3cret"
        with pytest.raises(UsageError, match=r"another model\.name"):
            main(["--endpoint", url, "--model", "n", *flags])
    with pytest.raises(UsageError, match="another endpoint"):
        main(["--endpoint", "http://other:1/v1", "--model", "m", *flags])
    for file in out.glob("*.json*"):
        assert "s3cret" not in file.read_text() and "pa55" not in file.read_text()
    row = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    assert row["images"][0]["seen"] == [84, 84]  # 96 to the nearest multiple of 28


KINDS = {
    "box": Box(0.1, 0.1, 0.2, 0.2),
    "point": Point(0.1, 0.1),
    "text_box": TextBox("The Save button", ()),
    "span": Span(1.0, 2.0),
}


@pytest.fixture
def mixed(screens, tmp_path):
    """A row of each kind of answer, and one whose target is absent."""
    root = tmp_path / "mixed"
    shutil.copytree(screens / "images", root / "images")
    rows = [
        Sample(kind, (ImageRef("images/0.png", 96, 96),), f"find the {kind}", target, "test", "CC0-1.0")
        for kind, target in {**KINDS, "absent": Absent()}.items()
    ]
    write_samples(root / "test.jsonl", rows)
    return root


def test_each_row_is_asked_for_its_own_kind_and_judged_by_it(mixed, jsonl, evaluate):
    assert [item.answer_kind for item in Screens().read(mixed, "test")] == ["box", "point", "text_box", "span", "box"]
    right = [
        {"id": "box", "box": [0.1, 0.1, 0.2, 0.2]},
        {"id": "point", "point": [0.1, 0.1]},
        {"id": "text_box", "text": "save button."},
        {"id": "span", "span": [1.0, 2.5]},
        {"id": "absent", "absent": True},
    ]
    wrong = [
        {"id": "box", "box": [0.5, 0.1, 0.6, 0.2]},
        {"id": "point", "point": [0.5, 0.1]},
        {"id": "text_box", "text": "cancel"},
        {"id": "span", "span": [3.0, 4.0]},
        {"id": "absent", "box": [0.1, 0.1, 0.2, 0.2]},
    ]
    for rows, correct in ((right, True), (wrong, False)):
        _, results, _ = evaluate("--data", mixed, "--predictions", jsonl(rows), "--space", "unit")
        assert {r["id"]: r["correct"] for r in results} == dict.fromkeys((row["id"] for row in rows), correct)


def test_methods_refuse_other_answers_than_places_before_a_model_is_loaded(mixed, random_model, tmp_path):
    with pytest.raises(
        UsageError, match=r"--method voting: works for one box or point, or for words; item 'span' asks for span"
    ):
        ask(random_model, mixed, tmp_path / "out", "--method", "voting")
    with pytest.raises(
        UsageError, match=r"--method attend: reads a place off attention; item 'text_box' asks for words"
    ):
        ask(random_model, mixed, tmp_path / "out", "--method", "attend")
    with pytest.raises(UsageError, match="did you mean 'voting'"):
        ask(random_model, mixed, tmp_path / "out", "--method", "votin")


def test_videos_are_asked_about_by_their_frames(random_model, mixed, tmp_path):
    videos = tmp_path / "charades"
    videos.mkdir()
    clips = {"AB12": {"duration": 30.0, "timestamps": [[1, 2]], "sentences": ["opens a door"]}}
    (videos / "charades_test.json").write_text(json.dumps(clips))
    with pytest.raises(
        UsageError, match=r"'AB12_0' is a video.*python -m data_prep charades_sta .*--videos FOLDER --out DIR"
    ):
        ask(random_model, videos, tmp_path / "out", "--benchmark", "charades_sta")
    (mixed / "manifest.json").write_text("{}")
    rows = (mixed / "test.jsonl").read_text().splitlines(keepends=True)
    (mixed / "test.jsonl").write_text(rows[3])
    ask(random_model, mixed, tmp_path / "out", "--benchmark", "charades_sta")
    header = json.loads((tmp_path / "out" / "generations.jsonl").read_text().splitlines()[0])["header"]
    assert set(header["data"]) == {"images"}
    assert [item.answer_kind for item in run.read_items(Screens(), mixed, "test")] == ["span"]
