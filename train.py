"""Train a recipe: one YAML in, one run folder out.

    python train.py configs/recipes/quickstart.yaml
    python train.py configs/recipes/quickstart.yaml stages.1.rewards.0.name=iou stages.1.args.beta=0.04
    accelerate launch --config_file configs/accelerate/zero2.yaml train.py configs/recipes/refcoco.yaml
    python train.py configs/recipes/refcoco.yaml model=qwen3_vl_8b --dry-run

Finished stages are skipped and an interrupted one goes on from its last checkpoint, so the answer to any
interruption is the same command again. Evaluation is `eval.py`'s, reports are `reports`'.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import warnings
from typing import Any

from grounding.command_line import CommandParser, fail


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(
        prog="train.py",
        description=__doc__,
        epilog="exit codes: 0 finished, 1 failed or interrupted (the same command goes on), 2 a wrong request",
    )
    parser.add_argument("recipe", help="YAML file; the ones of this repository are in configs/recipes")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change the recipe; list items by index: stages.1.args.beta=0",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, open images, try rewards, show what is asked and learned and a memory estimate; "
        "train nothing",
    )
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fovea").setLevel(logging.INFO)
    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # libraries announcing their next releases to each other
    signal.signal(
        signal.SIGTERM, _interrupt
    )  # like Ctrl-C; while training, recipes.callbacks saves a checkpoint first
    try:
        _run(parse(argv))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the user gets one line and an exit code
        return _fail(error)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    # Here and in this order: what takes seconds to import comes after what --help and a wrong key need
    from recipes.config import load_recipe  # noqa: PLC0415
    from recipes.exit_codes import check_model  # noqa: PLC0415

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    check_model(recipe.model.path)
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    from recipes.runner import dry_run, run_recipe  # noqa: PLC0415

    disable_progress_bar()  # of loading and saving weights
    if arguments.dry_run:
        for line in dry_run(recipe):
            print(line)
        command = [arguments.recipe, *arguments.overrides]
        print(f"OK; start it with: {launcher()} train.py {shlex.join(command)}")
    else:
        run_recipe(recipe)


def launcher() -> str:
    """What starts a training here: one process, or one a GPU."""
    import torch  # noqa: PLC0415

    return "accelerate launch" if torch.cuda.device_count() > 1 else "python"


def _fail(error: BaseException) -> int:
    from recipes.exit_codes import explain, speaks_for_all  # noqa: PLC0415

    line, code = explain(error)
    if line is None:
        raise error
    return fail(line, code) if speaks_for_all(error) else code


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
