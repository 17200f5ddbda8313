"""The run in one file, for two steps."""

from pathlib import Path

import pytest

from recipes import minimal


@pytest.mark.slow
def test_the_run_in_one_file_trains_and_measures(capsys):
    before, after = minimal.main(["--steps", "2", "--questions", "2", "--test-screens", "10"])
    assert 0 < before <= 1  # the embedded model can point before it is trained
    assert 0 <= after <= 1
    assert "after 2 steps" in capsys.readouterr().out


def test_the_run_in_one_file_stays_short():
    assert len(Path(minimal.__file__).read_text(encoding="utf-8").splitlines()) <= 120
