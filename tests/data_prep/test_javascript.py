"""Scripts that run in a browser are files of their own, and each is one that a JavaScript engine can read."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep import miniwob, view, web

ROOT = Path(web.__file__).parents[1]
SCRIPTS = sorted(ROOT.rglob("*.js"))
PAGES = sorted(ROOT.rglob("*.html"))


def check(code: str) -> None:
    done = subprocess.run(["node", "--check", "-"], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("path", [*SCRIPTS, *PAGES], ids=lambda path: path.name)
def test_scripts_can_be_read(path):
    text = path.read_text(encoding="utf-8")
    for code in re.findall(r"<script>(.*?)</script>", text, re.DOTALL) if path.suffix == ".html" else [text]:
        check(code)


def test_every_room_ships_its_scripts():
    assert {path.parent.name for path in (*SCRIPTS, *PAGES)} == {
        Path(room.__file__).parent.name for room in (web, miniwob, view)
    }


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_script_is_a_python_string(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if text.count("\n") > 2 and "=> " in text and ";" in text]
