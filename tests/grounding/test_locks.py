"""Locks of folders: one writer, free again when it ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grounding.errors import FoveaError, UsageError
from grounding.folders import LOCK_NAME, writing

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
