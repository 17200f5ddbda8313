"""The notebook runs from its first cell to its last, on shrunken steps; the Dockerfile fits the repository."""

from __future__ import annotations

import re
import shutil
import tomllib

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_readme import ROOT, TREE

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    text = "\n".join(cell.source for cell in notebook.cells)
    for link in re.findall(r"\]\((\.\./[^)]+)\)", text):
        assert (NOTEBOOK.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path, monkeypatch):
    for name in TREE:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    notebook = nbformat.read(NOTEBOOK, 4)
    parameters = next(cell for cell in notebook.cells if cell.source.startswith("SFT_STEPS"))
    assert re.match(r"SFT_STEPS, GRPO_STEPS, SCREENS, QUESTIONS = 16, 60, None, None\b", parameters.source)
    parameters.source = "SFT_STEPS, GRPO_STEPS, SCREENS, QUESTIONS = 1, 2, 32, 4"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "notebooks").mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    run = tmp_path / "runs" / "notebook"
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "Traceback" not in said and "error" not in said.lower(), said[-2000:]
    assert (run / "report.html").exists() and (run / "1-grpo" / "samples.html").exists()
    assert len(list((run / "eval").glob("*/metrics.json"))) == 2


def instructions():
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#")))
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


def test_the_dockerfile_copies_what_is_there_and_every_package():
    copied = [path for word, rest in instructions() if word == "COPY" for path in rest.split()[:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"perf", "tests"}
    assert packages | {"configs", "assets", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(
        copied
    )
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == kept


def test_the_dockerfile_installs_what_the_project_declares():
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python = re.search(r"python(3\.\d+) -m venv", DOCKERFILE)[1]
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert f"python{python}-venv" in DOCKERFILE
    extras = re.search(r'-e "\.\[([\w,]+)\]"', DOCKERFILE)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    ranges = {(own := Requirement(line)).name: own.specifier for line in declared}
    for name, version in re.findall(r'"(\w+)==([\d.]+)"', DOCKERFILE):
        assert version in ranges[name], name


def test_the_dockerfile_keeps_to_good_custom():
    words = [word for word, _ in instructions()]
    assert set(words) <= {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD"}
    images = [rest for word, rest in instructions() if word == "FROM"]
    assert len(images) == 1 and re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", images[0])  # pinned, not `latest`
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users and users[-1] != "root" and words.index("USER") < words.index("CMD")
    assert all("rm -rf /var/lib/apt/lists" in rest for word, rest in instructions() if "apt-get install" in rest)
    assert not re.search(r"(TOKEN|PASSWORD|SECRET|API_KEY)\s*=", DOCKERFILE)
