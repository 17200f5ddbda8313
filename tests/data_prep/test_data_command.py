"""`python -m data_prep`: exit codes, one-line errors, and what every registered source says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep import SOURCES
from data_prep.__main__ import build_parser, main
from data_prep.sources import CARDS
from tests.data_prep.helpers_data import write_jsonl, write_picture


def test_list_names_every_source(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("refcoco", "coco", "viscot", "aguvis", "hub", "cot", "curate", "screens"):
        assert f"\n{name}\n" in f"\n{text}"


def test_every_card_is_that_of_a_source():
    assert set(CARDS) <= set(SOURCES)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_has_a_command_line(name):
    spec = SOURCES.get(name)
    assert spec.name == name and spec.reads and spec.license
    text = build_parser(spec).format_help()
    assert "--max-rejects" in text and name in text


def test_convert_then_view(tmp_path, capsys):
    write_picture(tmp_path / "raw/train2014/a.jpg", 100, 50)
    row = {"img_path": "a.jpg", "expression": "the cat", "bbox": [0, 0, 50, 25], "width": 100, "height": 50}
    write_jsonl(tmp_path / "raw/r.jsonl", [row, {**row, "bbox": [0, 0, 500, 25]}])
    command = [
        "refcoco_json",
        "--root",
        str(tmp_path / "raw"),
        "--out",
        str(tmp_path / "o"),
        "--annotations",
        "r.jsonl",
    ]
    assert main(command) == 1
    assert "1 of 2 rows rejected" in capsys.readouterr().err
    assert main([*command, "--max-rejects", "0.5"]) == 0
    assert "1 train; 1 rejected" in capsys.readouterr().out
    assert main(["view", "--root", str(tmp_path / "o")]) == 0
    assert json.loads((tmp_path / "o/manifest.json").read_text())["images"] == 1


OWN_SOURCES = """
from data_prep import Item, source
from data_prep.pipeline.conversion import box_in
from data_prep.pipeline.presets import row_source


@source("own_whole", reads="nothing", license="MIT", needs_root=False)
def whole(args):
    raise ValueError("reached")


@row_source("own_rows", reads="r.jsonl", license="MIT", annotations="r.jsonl")
def rows(run, where, row):
    yield run.item(where, [run.folder(row["file"])], row["text"], box_in(100, row["bbox"]))
"""


def test_a_source_of_another_project_needs_one_new_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_sources.py").write_text(OWN_SOURCES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))  # what it registers is gone afterwards
    write_picture(tmp_path / "raw/a.jpg", 100, 50)
    write_jsonl(tmp_path / "raw/r.jsonl", [{"file": "a.jpg", "text": "the cat", "bbox": [0, 0, 50, 25]}])
    flags = ["--root", str(tmp_path / "raw"), "--out", str(tmp_path / "o")]
    assert main(["own_sources.rows", *flags]) == 0
    row = json.loads((tmp_path / "o/train.jsonl").read_text())
    assert row["source"] == "own_rows" and row["target"]["regions"][0]["coords"] == [0, 0, 0.5, 0.25]
    with pytest.raises(ValueError, match="reached"):
        main(["own_sources.whole", *flags[2:], "--overwrite"])
    assert main(["own_sources.box_in", *flags]) == 2
    assert "own_sources.box_in is no data source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["refcocco"], "did you mean 'refcoco'"),
        (["refcoco", "--root", "/nowhere", "--out", "../o"], "is not a folder"),
        (["refcoco", "--root", ".", "--out", "../o"], "does not exist"),
        (["coco", "--root", ".", "--out", "../o", "--annotations", "none*.json"], "nothing of that name"),
        (["view", "--root", "tests"], "no row can be read"),
        (["hub", "--mapping", "none.yaml", "--out", "../o"], "none.yaml"),
        (["curate", "--root", "tests", "--out", "../o"], "no train, val or test file"),
        (["cot", "--root", ".", "--out", "../o", "--teacher", "http://x/v1"], "needs --model"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(command, says, capsys, tmp_path, monkeypatch):
    (tmp_path / "raw" / "tests").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "raw")
    Path("train.jsonl").touch()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("error: ") and error.count("\n") == 1


MAPPING = """
name: x
files: [r.jsonl]
image: img_path
instruction: expression
target: {kind: box, column: bbox}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: box", "kind: bx", "did you mean 'box'"),
        ("instruction: expression", "instructon: expression", "unknown key 'instructon'; did you mean 'instruction'"),
        ("image: img_path", "", "yaml: image is missing"),
        ("column: bbox", "column: bbox, unit: furlong", "furlong"),
        ("column: bbox", "column: bbox, format: xxyy", "target: format 'xxyy'"),
        ("files: [r.jsonl]", "files: r.jsonl", "files: a list is needed, got 'r.jsonl'"),
        ("column: bbox", "column: bbox, unit: 0", "target: unit 0 is none of pixel"),
        ("files: [r.jsonl]", "", "either files or hub"),
        ("files: [r.jsonl]", "hub: {path: a/b, trust_remote_code: true}", "never run"),
        ("target: {", "target: [", "yaml"),
    ],
)
def test_a_wrong_mapping_names_the_key(old, new, says, tmp_path, capsys):
    root = tmp_path / "raw"
    root.mkdir()
    (root / "r.jsonl").touch()
    (root / "m.yaml").write_text(MAPPING.replace(old, new))
    command = ["hub", "--mapping", str(root / "m.yaml"), "--root", str(root), "--out", str(tmp_path / "o")]
    assert main(command) == 2
    assert says in capsys.readouterr().err.replace("m.yaml", "yaml")
