"""What a conversion and the pages must never touch: where they read, and what they did not make."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.pipeline import writer
from data_prep.pipeline.writer import State
from grounding.errors import FoveaError
from models.chat_client import RepliesFile
from tests.data_prep.helpers_data import write_json, write_jsonl, write_picture

GOOD = {"image": "a.png", "problem": "the red thing", "solution": [1, 1, 20, 20]}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_picture(tmp_path / "raw/images/a.png", 40, 30)
    write_picture(tmp_path / "raw/images/b.png", 40, 30)
    write_json(tmp_path / "raw/a.json", [GOOD, {**GOOD, "image": "b.png", "problem": "the blue thing"}])
    write_json(tmp_path / "raw/bad.json", [GOOD, {**GOOD, "solution": [1, 1, 900, 20]}])
    return tmp_path / "raw"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert(root: Path, out: Path, *more: str, annotations: str = "a.json") -> int:
    command = ["vlm_r1", "--root", root, "--out", out, "--annotations", annotations, "--image-folder", "images"]
    return main([str(word) for word in (*command, *more)])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("error: ")
    return text


@pytest.mark.parametrize("place", ["raw", "raw/images", "raw/new", ".", "link", "link/new"])
def test_nothing_is_written_where_the_source_reads(raw, tmp_path, place, capsys):
    (tmp_path / "link").symlink_to(raw / "images")
    before = tree(tmp_path)
    for more in ((), ("--overwrite",), ("--seed", "1")):
        assert convert(raw, tmp_path / place, *more) == 2
        assert "which is read; give a folder beside it" in error(capsys)
    assert tree(tmp_path) == before


def test_a_folder_outside_the_root_that_is_read_is_an_input_too(raw, tmp_path, capsys):
    raw.joinpath("images").rename(tmp_path / "pictures")
    (raw / "images").symlink_to(tmp_path / "pictures")
    before = tree(tmp_path)
    assert convert(raw, tmp_path / "pictures") == 2
    assert "which is read" in error(capsys) and tree(tmp_path) == before


@pytest.mark.parametrize("name", ["train.jsonl", "images/mine.png", "notes.txt", ".convert/state.json"])
def test_a_folder_with_files_of_the_users_is_refused(raw, tmp_path, name, capsys):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    for more in ((), ("--overwrite",)):
        assert convert(raw, tmp_path / "out", *more) == 2
        assert "is not empty and no data set of ours; give a new or empty folder" in error(capsys)
    assert tree(tmp_path / "out") == {name: b"mine"}


def test_overwriting_replaces_what_was_made_and_leaves_what_was_not(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(raw, out, "--val", "0.99") == 0
    assert sorted(path.name for path in (out / "images").iterdir()) == ["a.png", "b.png"]
    assert main(["view", "--root", str(out)]) == 0
    mine = {"notes.txt": b"mine", "images/mine.png": b"mine", "test.jsonl": b"mine"}
    for name, content in mine.items():
        (out / name).write_bytes(content)
    write_json(raw / "a.json", [GOOD])
    assert convert(raw, out) == 2 and "--overwrite" in error(capsys)
    assert convert(raw, out, "--overwrite") == 0
    after = tree(out)
    assert {name: after.get(name) for name in mine} == mine and "view/index.html" in after
    assert "images/b.png" not in after and "val.jsonl" not in after and after["train.jsonl"].count(b"\n") == 1
    write_json(raw / "a.json", [{**GOOD, "image": "mine.png"}])
    write_picture(raw / "images/mine.png", 40, 30)
    assert convert(raw, out, "--overwrite") == 2
    assert "images/mine.png: is not of this command" in error(capsys)
    assert after.items() <= tree(out).items()


def test_a_run_that_stopped_leaves_the_old_data_set_whole(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(raw, out) == 0
    before = tree(out)
    assert convert(raw, out, "--overwrite", annotations="bad.json") == 1
    assert "1 of 2 rows rejected" in error(capsys)
    assert before.items() <= tree(out).items()
    assert convert(raw, out) == 0
    assert tree(out) == before


def test_state_of_another_run_is_not_taken_for_ours(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(raw, out, annotations="bad.json") == 1
    assert convert(raw, out, "--seed", "1", annotations="bad.json") == 1
    assert convert(raw, out) == 0
    assert json.loads((out / "manifest.json").read_text())["rows"] == {"train": 2}
    assert sorted(path.name for path in out.iterdir()) == [
        ".fovea.jsonl", "images", "manifest.json", "rejects.jsonl", "train.jsonl"]  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"x"', "\0", "[" * 100_000, '{"made": "by hand"}'])
def test_garbage_in_our_own_files_is_one_line(raw, tmp_path, content, capsys):
    out = tmp_path / "out"
    assert convert(raw, out, annotations="bad.json") == 1
    (out / ".convert/state.json").write_text(content)
    capsys.readouterr()
    assert convert(raw, out, annotations="bad.json") == 2
    assert "state.json" in error(capsys)
    other = tmp_path / "other"
    assert convert(raw, other) == 0
    (other / "manifest.json").write_text(content)
    assert convert(raw, other) == 2
    assert ("--overwrite" if "by hand" in content else "manifest.json") in error(capsys)


@pytest.mark.parametrize("wrong", [{"sizes": {"train.jsonl": 0}}, {"items": -1}, {"sizes": []}, {"rows": None}])
def test_a_state_of_the_wrong_shape_is_damaged_too(raw, tmp_path, wrong, capsys):
    out = tmp_path / "out"
    assert convert(raw, out, annotations="bad.json") == 1
    state = json.loads((out / ".convert/state.json").read_text())
    (out / ".convert/state.json").write_text(json.dumps({**state, **wrong}))
    assert convert(raw, out, annotations="bad.json") == 2
    assert "is damaged" in error(capsys)


@pytest.mark.parametrize("place", [".", "data", "data/images", "data/images/new", "link", "link/x", "data/pages"])
def test_pages_are_not_written_into_or_over_a_data_set(tmp_path, monkeypatch, place, capsys):
    write_jsonl(tmp_path / "data/train.jsonl", [{"mine": 1}])
    write_picture(tmp_path / "data/images/a.png", 4, 4)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert main(["view", "--root", "data", "--out", place]) == 2
    assert "which is read; give a folder beside it" in error(capsys)
    assert tree(tmp_path) == before


def test_pages_replace_pages_only(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert convert(raw, out) == 0
    for folder in (out / "view", tmp_path / "pages"):
        (folder / "data").mkdir(parents=True)
        (folder / "data/mine.js").write_text("mine")
        assert main(["view", "--root", str(out), "--out", str(folder)]) == 2
        assert "is not empty and no view of a data set of ours" in error(capsys)
        assert tree(folder) == {"data/mine.js": b"mine"}
        (folder / "data/mine.js").unlink()
        (folder / "data").rmdir()
        assert main(["view", "--root", str(out), "--out", str(folder)]) == 0
        (folder / "data/mine.js").write_text("mine")
        assert main(["view", "--root", str(out), "--out", str(folder)]) == 0
        assert (folder / "data/mine.js").read_text() == "mine"
    other = tmp_path / "other"
    assert convert(raw, other) == 0
    before = tree(other)
    assert main(["view", "--root", str(out), "--out", str(other)]) == 2
    assert "holds a data set, no view" in error(capsys) and tree(other) == before


def test_a_finished_data_set_can_be_asked_for_again_without_write_permission(raw, tmp_path, monkeypatch):
    assert convert(raw, tmp_path / "out") == 0
    monkeypatch.setattr(writer, "owning", None)
    assert convert(raw, tmp_path / "out") == 0


def test_pipes_loops_and_long_names_are_rows_that_are_rejected(raw, tmp_path, capsys):
    os.mkfifo(raw / "images/pipe.png")
    (raw / "images/loop").symlink_to(raw / "images/loop")
    names = ["pipe.png", "loop", "loop/a.png", "x" * 5000 + ".png", "a\0b.png", "a.png/b.png"]
    write_json(raw / "a.json", [GOOD, *({**GOOD, "image": name} for name in names)])
    assert convert(raw, tmp_path / "out", "--max-rejects", "1") == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["rejected"] == len(names)
    os.mkfifo(raw / "pipe.json")
    assert convert(raw, tmp_path / "other", annotations="pipe.json") == 2
    assert convert(raw, tmp_path / "other", annotations="*pe.json") == 2
    assert convert(raw, tmp_path / ("x" * 5000)) == 2
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert convert(raw, tmp_path / "loop") == 2
    assert main(["view", "--root", str(tmp_path / "loop")]) == 2
    assert error(capsys)


@pytest.mark.parametrize("suffix", [".hashes.jsonl", ".replies.sqlite", ".replies.cost.json"])
def test_files_beside_a_data_set_are_not_written_over(raw, tmp_path, suffix, capsys):
    assert convert(raw, tmp_path / "in") == 0
    mine = tmp_path / f"out{suffix}"
    mine.write_bytes(b"mine\n")
    if suffix == ".hashes.jsonl":
        command = ["curate"]
    else:
        command = ["cot", "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--retries", "0"]
    assert main([*command, "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) in (1, 2)
    assert mine.name in error(capsys)
    assert mine.read_bytes() == b"mine\n"


def test_a_database_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "mine.sqlite"
    with closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(FoveaError, match=r"mine\.sqlite: holds something else"):
        RepliesFile(path)
    assert path.read_bytes() == before and not list(tmp_path.glob("mine.sqlite-*"))


def test_the_state_knows_its_own_shape():
    state = State("x")
    assert State.read(state.as_dict()) == state
