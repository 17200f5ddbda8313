"""Options and fixtures every test may use."""

import importlib.util
from pathlib import Path

import pytest

from data_prep.web.browser import find_chromium
from grounding.errors import UsageError


def pytest_addoption(parser):
    parser.addini(
        "peer_files",
        "folder of other people's whole prediction files (pytest -o peer_files=DIR)",
        default="data/peer",
    )


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser to test with; skips, with the reason, where there is none."""
    for package in ("playwright", "miniwob"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the Python package {package} is missing: pip install -e '.[web]'")
    try:
        return find_chromium()
    except UsageError as error:
        pytest.skip(str(error))
