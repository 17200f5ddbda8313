"""Runs of wandb: one per stage, kept apart from the network where nobody is logged in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import wandb

from recipes.callbacks import tracked
from recipes.runner import jobs_of
from tests.recipes.test_stages import recipe_of


def job_of(folder, mode):
    return jobs_of(recipe_of("model", "data", folder, sft={}, wandb=mode))[0]


@pytest.fixture
def begun(monkeypatch):
    """What `wandb.init` was called with, instead of it."""
    calls = []

    def init(**kwargs):
        calls.append(kwargs)
        return SimpleNamespace(id=kwargs["id"] or "new", finish=lambda: None)

    monkeypatch.setattr(wandb, "init", init)
    return calls


def test_a_stage_keeps_its_run(begun, tmp_path):
    for _ in range(2):
        with tracked(job_of(tmp_path, "offline"), main_process=True):
            pass
    assert [call["id"] for call in begun] == [None, "new"]
    assert all(call["resume"] == "allow" and call["mode"] == "offline" for call in begun)


@pytest.mark.parametrize("logged_in", [True, False])
def test_who_has_logged_in_is_online(logged_in, begun, tmp_path, monkeypatch):
    """`wandb login` leaves a key in the user's netrc file; no variable is set."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password " + "0" * 40 + "\n" if logged_in else "")
    monkeypatch.setenv("NETRC", str(netrc))
    wandb.teardown()
    with tracked(job_of(tmp_path, "auto"), main_process=True):
        pass
    wandb.teardown()
    assert begun[0]["mode"] == ("online" if logged_in else "offline")


def test_nothing_is_begun_by_other_processes_or_where_it_is_disabled(begun, tmp_path):
    with tracked(job_of(tmp_path, "disabled"), main_process=True):
        pass
    with tracked(job_of(tmp_path, "auto"), main_process=False):
        pass
    assert not begun
