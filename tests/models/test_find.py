"""Where a model is, and the true reason where it is nowhere."""

from __future__ import annotations

import time

import pytest
import requests

from grounding.errors import UsageError
from models import find
from models.find import find_model


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No cached model, and a Hub that nobody answers at."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/quickstart/1-grpo/model", "runs/quickstart/final"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "runs/adapter").mkdir()
    (tmp_path / "runs/adapter/adapter_config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").write_text("")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("runs/quickstrat/final", "no such folder; runs has no quickstrat; did you mean 'quickstart'"),
        ("runs/quickstart/finl", "no such folder; did you mean 'final'"),
        ("runs/quickstart", "holds a run, not a model; say --model runs/quickstart/final"),
        ("runs/quickstart/1-grpo", "say --model runs/quickstart/1-grpo/model"),
        ("runs/adapter", "an adapter without its model"),
        ("empty", "no config.json in this folder"),
        ("file.bin", "a file; give the folder"),
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder; / has no nowhere"),
        ("a/b/c", "no such folder"),
        ("org/name", "no such folder, and not in the Hugging Face cache, and http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_a_model_that_is_nowhere_is_refused_for_its_own_reason(folders, no_network, model, message):
    started = time.monotonic()
    with pytest.raises(UsageError) as caught:
        find_model(model)
    assert message in str(caught.value) and str(caught.value).startswith(f"--model {model}: ")
    assert time.monotonic() - started < 2


def test_a_folder_is_itself(folders):
    assert find_model("runs/quickstart/final")[0] == "runs/quickstart/final"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_name_the_hub_does_not_have_is_said(no_network, monkeypatch, status):
    monkeypatch.setattr(find.requests, "head", lambda *args, **kwargs: _response(status))
    with pytest.raises(UsageError, match=r"has no such model \(or it is private or gated"):
        find_model("org/name")


def test_a_hub_that_hangs_is_left(no_network, monkeypatch):
    monkeypatch.setattr(find.requests, "head", lambda *args, **kwargs: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(UsageError, match="cannot be reached"):
        find_model("org/name")
    assert time.monotonic() - started < 2


def test_without_a_network_the_cached_model_is_taken(no_network, tmp_path):
    snapshot = tmp_path / "cache" / "models--org--name" / "snapshots" / ("c0ffee" * 7)[:40]
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    assert find_model("org/name") == (str(snapshot), snapshot)


def _response(status):
    response = requests.Response()
    response.status_code = status
    return response
