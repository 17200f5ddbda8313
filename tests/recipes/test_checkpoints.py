"""Which checkpoint a stage goes on from."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from recipes.records.checkpoints import last_checkpoint, sweep


def write(folder, step, processes=1):
    """A checkpoint as transformers writes it."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.ones(64)}, path / "adapter_model.safetensors")
    torch.save({"step": step}, path / "optimizer.pt")
    for rank in range(processes):
        torch.save({"cpu": rank}, path / ("rng_state.pth" if processes == 1 else f"rng_state_{rank}.pth"))
    kept = {"StageState": {"args": {}, "attributes": {"processes": processes}}}
    state = {"global_step": step, "max_steps": 20, "stateful_callbacks": kept}
    (path / "trainer_state.json").write_text(json.dumps(state))
    return path


def test_the_newest_by_its_number_is_taken(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 9):
        write(tmp_path, step)
    assert last_checkpoint(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("left", [0, 40])
def test_a_damaged_one_is_named_and_an_older_one_taken(name, left, tmp_path, caplog):
    older, newer = write(tmp_path, 3), write(tmp_path, 6)
    (newer / name).write_bytes((newer / name).read_bytes()[:left])
    assert last_checkpoint(tmp_path) == older
    assert str(newer) in caplog.text and name in caplog.text
    sweep(tmp_path, older)
    assert not newer.exists()
    assert last_checkpoint(tmp_path) == older


def test_a_process_whose_random_state_is_missing_makes_it_damaged(tmp_path):
    older, newer = write(tmp_path, 3, processes=2), write(tmp_path, 6, processes=2)
    assert last_checkpoint(tmp_path) == newer
    (newer / "rng_state_1.pth").unlink()
    assert last_checkpoint(tmp_path) == older


def test_one_that_was_being_written_is_removed_without_a_word(tmp_path, caplog):
    (tmp_path / "checkpoint-4").mkdir()
    assert last_checkpoint(tmp_path) is None
    assert not caplog.text
    sweep(tmp_path, None)
    assert list(tmp_path.iterdir()) == []
