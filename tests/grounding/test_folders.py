"""Folders of ours: what is not ours is never touched, no kill leaves a mixture, one writer at a time."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grounding.errors import FoveaError, UsageError
from grounding.folders import (
    LISTING,
    LOCK_NAME,
    PAGE,
    check_apart,
    check_new,
    check_owned,
    claim,
    owning,
    rebuilding,
    writing,
)
from grounding.journal import read_journal

KIND = "test folder"
FIRST = {"manifest.json": "1", "train.jsonl": "rows", "val.jsonl": "more", "images/a.png": "a", "images/d/b.png": "b"}
SECOND = {"manifest.json": "two", "train.jsonl": "2 rows", "images/a.png": "A2", "images/c.png": "c", "new/e": "e"}


def fill(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def build(folder: Path, content: dict[str, str]) -> None:
    with rebuilding(folder, KIND) as new:
        fill(new, content)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files if path.name != LISTING}


def test_content_is_replaced_and_listed(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    build(out, FIRST)
    assert content(out) == FIRST
    assert sorted(row["id"] for row in read_journal(out / LISTING)) == sorted(FIRST)
    build(out, SECOND)
    assert content(out) == SECOND
    assert sorted(path.name for path in out.iterdir()) == [LISTING, "images", "manifest.json", "new", "train.jsonl"]


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    build(tmp_path, FIRST)
    mine = {"notes.txt": "mine", "images/mine.png": "mine", "images/d/mine.txt": "mine", "view/index.html": "page"}
    fill(tmp_path, mine)
    build(tmp_path, SECOND)
    assert content(tmp_path) == {**SECOND, **mine}


@pytest.mark.parametrize("name", ["images/c.png", "new", "images/a.png", "train.jsonl", "images"])
def test_a_file_in_the_way_is_named_and_nothing_changes(tmp_path: Path, name: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    build(out, FIRST)
    if name == "images":  # now a link to pictures of the user's, of the same names and sizes
        (out / "images").rename(elsewhere)
        (out / "images").symlink_to(elsewhere)
    else:
        (out / name).write_text("my own")
    before = content(out), content(tmp_path)
    with pytest.raises(UsageError, match=f"out/{name}: is not of this command, or was changed since"):
        build(out, SECOND)
    assert (content(out), content(tmp_path)) == before


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty and no test folder of ours; give a new or empty folder"):
        build(tmp_path, FIRST)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
    with pytest.raises(UsageError, match=r"train\.jsonl: is not a folder"):
        build(tmp_path / "train.jsonl", FIRST)
    other = tmp_path / "other"
    build(other, FIRST)
    with pytest.raises(UsageError, match="holds a test folder, no run"), owning(other, "run"):
        pass
    assert content(other) == FIRST
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / LOCK_NAME).touch()
    check_owned(tmp_path / "empty", KIND)


def test_a_listing_cannot_name_files_outside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(out, FIRST)
    (tmp_path / "secret").write_text("mine")
    with (out / LISTING).open("a") as listing:
        listing.write('{"id": "../secret", "bytes": 4}\n{"id": "%s", "bytes": 4}\n' % (tmp_path / "secret"))
        listing.write('{"id": "images/../../secret", "bytes": 4}\n{"id": "\\u0000", "bytes": 4}\n')
    build(out, SECOND)
    assert content(out) == SECOND
    assert (tmp_path / "secret").read_text() == "mine"


def test_an_error_while_building_leaves_the_old_content(tmp_path: Path) -> None:
    build(tmp_path, FIRST)
    with pytest.raises(RuntimeError), rebuilding(tmp_path, KIND) as new:
        fill(new, SECOND)
        raise RuntimeError
    assert content(tmp_path) == FIRST


class Killed(BaseException):
    """As SIGKILL: nothing that runs in this process afterwards touches the disk."""


def killing(patch: pytest.MonkeyPatch, calls: int) -> None:
    """Let so many calls that change the disk through, then let every one fail."""
    left = itertools.count(calls, -1)
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        original = getattr(os, name)

        def guarded(*args, original=original, **more):
            if next(left) <= 0:
                raise Killed
            return original(*args, **more)

        patch.setattr(os, name, guarded)


def test_killed_after_any_step_no_mixture_is_left_and_the_next_run_completes_it(tmp_path: Path) -> None:
    finished = False
    for calls in itertools.count():
        out = tmp_path / str(calls)
        build(out, FIRST)
        fill(out, {"images/mine.png": "mine"})
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, calls)
            try:
                build(out, SECOND)
                finished = True
            except Killed:
                pass
        found = {name: text for name, text in content(out).items() if not name.startswith(".")}
        assert found.pop("images/mine.png") == "mine"
        for whole in (FIRST, SECOND):
            if found.get("train.jsonl") == whole["train.jsonl"]:  # rows stand beside their own pictures only
                assert {**found, "manifest.json": whole["manifest.json"]} == whole
            if found.get("manifest.json") == whole["manifest.json"]:
                assert found == whole
        (out / LOCK_NAME).unlink(missing_ok=True)
        with owning(out, KIND):
            after = content(out)
        del after["images/mine.png"], after[LOCK_NAME]
        assert {name: text for name, text in after.items() if not name.startswith(".")} in (FIRST, SECOND)
        build(out, SECOND)
        assert content(out) == {**SECOND, "images/mine.png": "mine"}
        if finished:
            break
    assert calls > 15


@pytest.mark.parametrize("relation", ["is", "lies inside", "holds"])
def test_reading_and_writing_places_are_apart_links_followed(tmp_path: Path, relation: str) -> None:
    (tmp_path / "data" / "raw" / "images").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "raw")
    out = {"is": "link", "lies inside": "link/images/new", "holds": "data"}[relation]
    with pytest.raises(UsageError, match=f"{relation} .*raw, which is read; give a folder beside it"):
        check_apart(tmp_path / out, [tmp_path / "data" / "raw"])
    check_apart(tmp_path / "data" / "raw2", [tmp_path / "data" / "raw"])


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError, match="is no path"):
        check_apart(tmp_path, [Path("a\0b")])
    check_apart(tmp_path / "out", [tmp_path / "loop"])
    for path in (tmp_path / "loop", tmp_path / ("x" * 5000)):
        with pytest.raises(FoveaError, match=r"loop|xxx"):
            build(path, FIRST)


def test_claiming_twice_and_by_several_processes_is_one_mark(tmp_path: Path) -> None:
    for _ in range(3):
        claim(tmp_path / "run", "run")
        fill(tmp_path / "run", {"mine.txt": "mine"})
    assert (tmp_path / "run" / LISTING).read_text() == '{"header": {"kind": "run"}}\n'
    with owning(tmp_path / "run", "run"), pytest.raises(UsageError, match="holds a run, no evaluation"):
        claim(tmp_path / "run", "evaluation")


def test_only_files_with_the_mark_are_written_over(tmp_path: Path) -> None:
    page, mine = tmp_path / "page.html", tmp_path / "mine.html"
    page.write_bytes(b"<!doctype html>" + PAGE)
    mine.write_bytes(b"<!doctype html>" + b" " * 5000 + PAGE)
    check_new(page, PAGE)
    check_new(tmp_path / "new.html", PAGE)
    for path, mark in ((mine, PAGE), (page, None), (tmp_path, PAGE)):
        with pytest.raises(UsageError, match="exists and was not made by this command; give another name"):
            check_new(path, mark)


HOLD = """
import os, sys, time
from grounding.folders import writing
with writing(sys.argv[1]):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.close(1)
        time.sleep(3)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, *more: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_folder_is_made_and_left_without_a_trace(tmp_path: Path) -> None:
    with writing(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK_NAME).read_text() == f"{os.getpid()}\n"
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with writing(tmp_path / "a" / "b"):
        pass


def test_a_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with (
            pytest.raises(UsageError, match=rf"another run is writing here \(pid {process.pid}\)"),
            writing(tmp_path),
        ):
            pass
        (tmp_path.parent / "link").symlink_to(tmp_path)
        with pytest.raises(UsageError, match="another run"), writing(tmp_path.parent / "link"):
            pass
    finally:
        process.kill()
        process.communicate()


def test_the_same_process_is_a_second_writer_too(tmp_path: Path) -> None:
    with writing(tmp_path):
        with pytest.raises(UsageError, match=f"pid {os.getpid()}"), writing(tmp_path / "." / ""):
            pass
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        second = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "another run is writing here" in second.stderr  # still held
        with writing(tmp_path / "inside"):
            pass
    with writing(tmp_path):
        pass


@pytest.mark.parametrize("more", [(), ("fork",)], ids=["alone", "with a worker that lives on"])
def test_a_kill_frees_the_folder(tmp_path: Path, more: tuple[str, ...]) -> None:
    process = hold(tmp_path, *more)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    with writing(tmp_path):
        pass
    assert time.monotonic() - began < 1
    assert list(tmp_path.iterdir()) == []
    process.stdout.close()


def test_an_error_inside_frees_it_and_passes_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), writing(tmp_path):
        raise RuntimeError("inside")
    with pytest.raises(OSError, match="mine"), writing(tmp_path):
        raise OSError("mine")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FoveaError, match="file: cannot be locked"), writing(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"
