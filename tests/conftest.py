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


def pytest_collection_modifyitems(config, items):
    """Where several processes share the files, those that may take longest start first: none is left over alone."""
    if not hasattr(config, "workerinput"):
        return  # alone, in the order of the names
    longest = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0), marker.args[0] if marker else 0)
    items.sort(key=lambda item: -longest[item.path])


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
