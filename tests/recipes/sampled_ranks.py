"""Trains a recipe's only stage on each process and writes what its sampler knows: RECIPE OUT, under accelerate."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recipes.config import load_recipe
from recipes.runner import jobs_of
from recipes.stage import STAGES


def main() -> None:
    recipe, out = sys.argv[1:]
    (job,) = jobs_of(load_recipe(recipe))
    trainer = STAGES.get(job.spec.kind)(job).trainer()
    trainer.train()
    told = {
        "state": trainer.chosen.state(),
        "logged": [line.get("sampling/flat") for line in trainer.state.log_history],
    }
    Path(out, f"{trainer.accelerator.process_index}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
