"""The documents keep their word: marked commands run, and whatever the others name exists.

A ```bash block after the line `<!-- test: fast -->` is run as it stands, in order, in a copy of the repository,
in this process, which has imported torch already.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- test: (?P<mark>\w+) -->\n)?^```bash\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
# What is there: a list of names would miss the next package
TREE = ("Makefile", "assets", "configs", *(path.name for path in ROOT.glob("*.py")))
TREE += tuple(path.parent.name for path in ROOT.glob("*/__init__.py"))


def commands(document: Path) -> list[tuple[bool, list[str]]]:
    """(is it run here, its words) for each command of the document's bash blocks; continued lines are joined."""
    found = []
    for block in BLOCK.finditer(document.read_text(encoding="utf-8")):
        for line in block["body"].replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append((block["mark"] == "fast", words))
    return found


def marked() -> list[list[str]]:
    return [words for document in DOCUMENTS for run, words in commands(document) if run]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository's code without data and runs, so that commands leave nothing behind."""
    folder = tmp_path_factory.mktemp("clone")
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def test_there_are_commands_to_run():
    assert len(marked()) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("words", marked(), ids=" ".join)
def test_marked_commands_run(words, copy, monkeypatch, capfd):
    assert words[0] == "python", "commands that are run here are Python's"
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "argv", words[2:] if words[1] == "-m" else words[1:])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if words[1] == "-m":
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(copy / words[1]), run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    out, err = capfd.readouterr()
    assert code == 0, f"{shlex.join(words)}\n{out[-2000:]}\n{err[-4000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_names_what_exists(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for _, words in commands(document):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        if "-m" in words[:3] and words[0] == "python":
            assert importlib.util.find_spec(words[2]), words
        for word in words:
            if re.fullmatch(r"(configs|assets|perf|tests)/\S+|\w+\.py", word):
                assert (ROOT / word.partition(":")[0]).exists(), words  # FILE.py:FUNCTION names a reward


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    missing = [
        link for link in LINK.findall(document.read_text(encoding="utf-8")) if not (document.parent / link).exists()
    ]
    assert not missing


PUBLISHED = [
    (document, words)
    for document in DOCUMENTS
    for _, words in commands(document)
    if "--table-only" in words and any(word.startswith("docs/") for word in words)
]


@pytest.mark.parametrize(("document", "words"), PUBLISHED, ids=[words[-1] for _, words in PUBLISHED])
def test_published_tables_are_what_the_published_runs_give(document, words):
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    known = {line.rstrip() for line in document.read_text(encoding="utf-8").splitlines()}
    table = [line.rstrip() for line in done.stdout.splitlines()]
    assert len(table) > 4
    assert [line for line in table if line not in known] == []


def test_nobody_is_told_to_install_the_package_of_that_name():
    # `fovea` on the package index is another project's; ours is installed from the checkout
    stranger = re.compile(r"pip install[^\n]*?['\" =]fovea(?![-\w])")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in tracked.split() if Path(name).suffix in (".py", ".md", ".yaml", ".toml", "")]
    assert len(files) > 100
    named = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in files
        if file.is_file()
        for match in stranger.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not named
