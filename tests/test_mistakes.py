"""Typical mistakes: each is one line that names the cause, with its exit code, at once. They run in this process."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

import recipes.runner  # noqa: F401  its seconds are not those of the first mistake; alone that costs no import of it
from benchmarks.harness import cli
from credit.__main__ import main as credit
from data_prep.__main__ import main as data_prep
from grounding.command_line import fail
from grounding.errors import FoveaError
from predict import main as predict
from recipes.__main__ import main as recipes_command
from reports.__main__ import main as reports
from rewards.__main__ import main as rewards
from tests.data_prep.helpers_data import write_jsonl
from tests.recipes.tiny import make_data
from train import main as train

ROOT = Path(__file__).resolve().parents[1]
MODEL = str(ROOT / "assets" / "fovea-tiny")
RECIPE = str(ROOT / "configs" / "recipes" / "your_data.yaml")
SECONDS = 2.0  # of this process: a loaded machine may take longer by the clock


def evaluate(argv):
    try:
        return cli.main(argv)
    except FoveaError as error:  # eval.py prints it
        return fail(str(error), error.exit_code)


def recipe(*words):
    return train, [RECIPE, "data=set", f"model.path={MODEL}", "tracker=none", *words, "--dry-run"]


MISTAKES = [
    # The recipe
    (train, ["quickstrat.yaml"], 2, "quickstrat.yaml: No such file"),
    (train, ["broken.yaml"], 2, "broken.yaml: not YAML"),
    (*recipe("modle.path=x"), 2, "there is no 'modle'; did you mean 'model'"),
    (*recipe("stages.5.args.seed=1"), 2, "stages has 2 items, counted from 0"),
    (*recipe("seed=x"), 2, "seed: a whole number is needed, got 'x'"),
    (*recipe("tracker=wndb"), 2, "did you mean 'wandb'"),
    (*recipe("data=nowhere"), 2, "data nowhere: no such file or folder"),
    (*recipe("data=full"), 2, "data full: no train.jsonl or train.parquet in this folder"),
    (*recipe("data=ambiguous.jsonl"), 2, "say data.space: pixel|thousandth|percent|fraction"),
    (*recipe("data=words.csv"), 2, "words.csv: no column looks like a box or a point"),
    (*recipe("model.path=nowhere"), 2, "model.path nowhere: no such folder, and not in the Hugging Face cache"),
    (*recipe("model.path=full"), 2, "model full: no config.json in this folder"),
    (*recipe("model.dialect=qwen2.5"), 2, "unknown dialect"),
    (*recipe("model.grammar=thinking"), 2, "model.grammar is 'thinking'"),
    # Its stages
    (*recipe("stages.0.kind=stf"), 2, "unknown stage 'stf'; did you mean 'sft'"),
    (*recipe("stages.0.args.lerning_rate=1"), 2, "unknown key 'lerning_rate'; did you mean 'learning_rate'"),
    (*recipe("stages.0.args.learning_rate=fast"), 2, "args.learning_rate: a number is needed, got 'fast'"),
    (*recipe("stages.0.args.report_to=wandb"), 2, "report_to: set the recipe's `tracker`"),
    (*recipe("stages.0.args.output_dir=x"), 2, "output_dir: the run folder decides"),
    (*recipe("stages.0.args.packing=true"), 2, "packing: rows with images cannot be joined"),
    (*recipe("stages.0.lora.rank=3"), 2, "stages.0 (sft).lora: unknown key 'rank'"),
    (*recipe("stages.0.rewards=[iou]"), 2, "stages.0 (sft) has no rewards"),
    (*recipe("stages.1.args.max_prompt_length=5"), 2, "TRL no longer cuts prompts"),
    (*recipe("stages.1.args.kl_coef=0.1"), 2, "kl_coef: is called beta"),
    (*recipe("stages.1.args.num_generations=3"), 2, "stages.1 (grpo).args: "),
    (*recipe("stages.1.eval=null"), 2, "the stage has no eval; add `eval: {split: val}`"),
    (*recipe("stages.1.args.use_vllm=true"), 2, "args.use_vllm needs vllm: pip install vllm"),
    (*recipe("stages.1.rewards.0.name=iuo"), 2, "unknown reward 'iuo'; did you mean 'iou'"),
    (*recipe("stages.1.rewards.0.name=my.py:inside"), 2, "reward my.py:inside: no such file"),
    (*recipe("stages.1.rewards.0={name: iou, params: {alhpa: 1}}"), 2, "reward 'iou': unknown parameter 'alhpa'"),
    # Data
    (data_prep, ["refcoc", "--out", "o"], 2, "unknown data source 'refcoc'; did you mean 'refcoco'"),
    (data_prep, ["import", "gone.csv"], 2, "gone.csv: no such file"),
    (data_prep, ["import", "bad.png"], 2, "bad.png: a .png is not known"),
    (data_prep, ["import", "words.csv", "--images", "gone"], 2, "--images gone: no such folder"),
    (data_prep, ["import", "words.csv", "--column", "pic=x"], 2, "--column pic: no role"),
    (data_prep, ["coco", "--root", "gone", "--out", "o"], 2, "--root gone is not a folder"),
    (data_prep, ["screens", "--out", "full"], 2, "full: is not empty and no data set of ours"),
    (data_prep, ["view", "--root", "gone"], 2, "--root gone: is not a folder"),
    # Rewards
    (rewards, ["show", "iuo"], 2, "unknown reward 'iuo'; did you mean 'iou'"),
    (rewards, ["try", "iou", "--data", "gone"], 2, "--data gone: no such file or folder"),
    (rewards, ["try", "iou", "--data", "set", "--sample", "sqare-1"], 2, "did you mean 'square-1'"),
    (
        rewards,
        ["try", "fails.py:bad", "--data", "set"],
        1,
        "raised KeyError for sample 'square-0': 'color' (at fails.py:2)",
    ),
    # Evaluation, prediction, reports
    (evaluate, ["--data", "set", "--out", "o"], 2, "say who answers: --model NAME or --predictions FILE"),
    (
        evaluate,
        ["--benchmark", "screenspt_pro", "--model", MODEL, "--data", "x", "--out", "o"],
        2,
        "'screenspot_pro'",
    ),
    (evaluate, ["--model", "runs/nowhere", "--data", "set", "--out", "o"], 2, "--model runs/nowhere: no such folder"),
    (evaluate, ["--model", MODEL, "--data", "gone", "--out", "o"], 2, "--data gone: no such folder or file"),
    (predict, ["--model", MODEL, "--image", "gone.png", "x"], 2, "--image gone.png: no such file"),
    (predict, ["--model", MODEL, "--image", "bad.png", "x"], 2, "--image bad.png: not an image"),
    (predict, ["--model", MODEL, "--kind", "boxs", "--image", "ok.png", "x"], 2, "invalid choice: 'boxs'"),
    (reports, ["gone"], 2, "gone: no such run folder"),
    (reports, ["full"], 2, "full: neither stages"),
    (predict, ["--model", MODEL, "--image", "ok.png"], 2, "say what to find"),
    (predict, ["--model", MODEL, "x"], 2, "say about what: --image FILE"),
    (predict, ["--model", MODEL, "--video", "gone.mp4", "x"], 2, "--video gone.mp4: no such file"),
    (predict, ["--model", MODEL, "--video", "bad.png", "x"], 2, "--video bad.png: damaged video"),
    (
        predict,
        [
            "--model",
            "m",
            "--endpoint",
            "http://x/v1",
            "--dialect",
            "qwen3_vl",
            "--tools",
            "zoom",
            "--image",
            "ok.png",
            "x",
        ],
        2,
        "--tools has no effect with --endpoint",
    ),
    (
        predict,
        ["--model", "m", "--endpoint", "http://x/v1", "--dialect", "qwen2_5_vl", "--image", "ok.png", "x"],
        2,
        "give the server's --max-pixels",
    ),
    (credit, ["show", "--model", MODEL, "--data", "gone", "--out", "o"], 2, "--data gone: no such file"),
    (
        credit,
        ["show", "--model", "no/such-model", "--data", "set/val.jsonl"],
        2,
        "--model no/such-model: no such folder",
    ),
    # The command line itself
    (train, ["quickstart.yaml", "--dry"], 2, "recipe quickstart.yaml: No such file"),
    (train, [], 2, "the following arguments are required: recipe"),
    (evaluate, ["--modle", "x"], 2, "unrecognized arguments: --modle x"),
    (evaluate, ["--limit", "many"], 2, "argument --limit: invalid int value: 'many'"),
    (data_prep, ["import", "words.csv", "--vall", "0.1"], 2, "unrecognized arguments: --vall 0.1"),
    (rewards, ["trie", "iou"], 2, "invalid choice: 'trie'"),
    (reports, [], 2, "the following arguments are required: run"),
    (credit, ["show", "--data", "set"], 2, "the following arguments are required: --model"),
    (recipes_command, ["show", "quickstrat"], 2, "quickstrat"),
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with what the commands stumble over."""
    folder = tmp_path_factory.mktemp("desk")
    make_data(folder / "set")
    shutil.copy(folder / "set" / "train.jsonl", folder / "set" / "val.jsonl")
    (folder / "full").mkdir()
    (folder / "full" / "x").write_text("mine")
    (folder / "broken.yaml").write_text("name: [x\n")
    (folder / "words.csv").write_text("image,caption\n0.jpg,x\n")
    (folder / "bad.png").write_text("x")
    (folder / "fails.py").write_text("def bad(answer, sample):\n    return sample.meta['color']\n")
    Image.new("RGB", (64, 64)).save(folder / "ok.png")
    rows = [{"image": "ok.png", "instruction": f"thing {n}", "bbox": [1, 2, 30, 40]} for n in range(4)]
    write_jsonl(folder / "ambiguous.jsonl", rows)
    return folder


def test_there_are_enough():
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=[row[3][:60] for row in MISTAKES])
def test_a_mistake_is_one_line(mistake, desk, monkeypatch, capsys):
    command, argv, code, told = mistake
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = {path for path in desk.rglob("*") if "imported" not in path.parts}
    start = time.process_time()
    assert command(argv) == code
    took = time.process_time() - start
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and told in lines[0]
    assert took < SECONDS
    assert {path for path in desk.rglob("*") if "imported" not in path.parts} == before  # nothing is left behind
