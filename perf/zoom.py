"""Does looking again pay? The embedded model with `zoom` against a single look, on screens only a crop can answer.

    python perf/zoom.py                    # five paired seeds; goes on where it was stopped
    python perf/zoom.py --seeds 0 --train-only zoom    # one arm of one seed
    python perf/zoom.py --table-only       # what there is so far

Both arms train the same recipe (configs/recipes/zoom.yaml) with the same seed on the same screens and questions,
with equally many supervised samples and GRPO rollouts; the single look has no tools and thoughts about the whole
screen. Greedy accuracy (the click lies in the target) on held-out screens, after the cold start and after GRPO; at
the end also with the picture of every crop replaced by one from a random place of the same screen: the coordinates
stay those of the region asked for, so an answer that does not read the crop loses nothing. Prints one table, with
the share of regions that show the target whole; exits 1 unless zoom beats the single look by at least 15 points on
average with a 95 % interval over seeds (Student's t) above 0, and accuracy falls with the random crop, its interval
above 0 too. Missing arms count as missed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from transformers import set_seed

sys.path.insert(0, str(Path(__file__).parents[1]))

from grounding.crops import Crop
from grounding.decoding import Decoder
from grounding.fingerprint import model_fingerprint
from grounding.geometry import point_in_box
from grounding.io import open_image, read_samples, replacing
from models.loading import load_policy
from models.prompting import question
from models.sampling import generation_config
from perf.runs import interval
from recipes.config import load_recipe
from tools import Shown, ToolCall, ToolView
from tools.loop import LocalTurns, Played, play
from tools.section import ToolsConfig
from tools.toolbox import Toolbox
from tools.zoom_tool import Zoom

RECIPE = "configs/recipes/zoom.yaml"
ARMS = ("zoom", "single")
STAGES = ("0-sft", "1-grpo")
POINTS = 15.0


class BlindZoom(Zoom):
    """`zoom`, but what it shows is from a random place; coordinates are those of the region asked for."""

    name = "zoom"

    def run(self, call: ToolCall, view: ToolView) -> Shown:
        shown = super().run(call, view)
        width, height = view.images[shown.crop.image].size
        across, down = shown.crop.size
        draw = random.Random(repr((shown.crop.pixels, width)))  # the same for the same call, on any machine
        left, top = draw.randint(0, width - across), draw.randint(0, height - down)
        other = Crop(shown.crop.image, (left, top, left + across, top + down), width, height)
        return Shown(view.picture(other).resize(shown.picture.size), shown.crop)


def data_of(arm: str, root: Path) -> Path:
    """The arm's data set, drawn unless it is there."""
    folder = root / f"groups-{arm}"
    turns = "1" if arm == "zoom" else "0"
    if not (folder / "manifest.json").is_file():
        command = [sys.executable, "-m", "data_prep", "screen_groups", "--turns", turns, "--out", str(folder)]
        subprocess.run(command, check=True)
    return folder


def train(arm: str, seed: int, root: Path, overrides: list[str]) -> Path:
    """The arm's run folder, trained unless it is there or on from where it was stopped."""
    name = f"{arm}-seed{seed}"
    told = [f"name={name}", f"seed={seed}", f"output={root}", f"data={data_of(arm, root)}", "wandb=disabled"]
    if arm == "single":
        told += ["stages.0.tools=null", "stages.1.tools=null"]
    with (root / f"{name}.log").open("a", encoding="utf-8") as log:
        command = [sys.executable, "train.py", RECIPE, *told, *overrides]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return root / name


def measure(model_folder: Path, data: Path, count: int, *, blind: bool, tools: bool, cache: Path) -> None:
    """Write to `cache`, with the weights, of each of the first `count` test screens: was it clicked `right`, and is
    the target `shown` whole by the region that was asked for."""
    weights = model_fingerprint(str(model_folder))
    kept = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    if kept.get("weights") == weights and len(kept["right"]) == count:
        return
    recipe = load_recipe(RECIPE)
    spec = recipe.stages[0].tools
    use = [{**dict(spec.use[0]), "name": f"{__name__}:BlindZoom"}] if blind else list(spec.use)
    config = ToolsConfig.from_given({**spec.model_dump(), "use": use, "turns": spec.turns if tools else 1})
    model, processor = load_policy(model_folder, max_pixels=recipe.model.max_pixels)
    model.eval()
    toolbox = Toolbox(config, processor, model.config.model_type, recipe.model.profile)
    decoder = Decoder.of(processor, model.generation_config.eos_token_id, toolbox.grammar)
    greedy = generation_config(model, max_new_tokens=spec.turn_tokens, temperature=0)
    sampler = LocalTurns(model, processor, greedy, decoder, batch=50)
    rows, targets = [], []
    for sample in read_samples(data / "test.jsonl", limit=count):
        images = [open_image(data, image) for image in sample.images]
        asked = question(recipe.model.profile, sample.question, "box", ())
        prompt = toolbox.prompt_ids(toolbox.chat(asked, len(images)), images)
        rows.append(Played(toolbox.episode(images, question=asked, answer_kind="box"), prompt, images))
        targets.append(sample.target)
    set_seed(0)
    play(toolbox, rows, sampler, decoder)
    right, shown = [], []
    for row, target in zip(rows, targets, strict=True):
        click = row.episode.answer.click
        right.append(click is not None and bool(point_in_box((click.x, click.y), target.xyxy)))
        shown.append(row.episode.cropped and row.episode.crop.to_crop(target) is not None)
    with replacing(cache) as part:
        part.write_text(json.dumps({"weights": weights, "right": right, "shown": shown}), encoding="utf-8")


def evaluate(arm: str, seed: int, root: Path, count: int) -> None:
    """Every figure of one run: both stages; the last of the arm with tools also blind."""
    for stage in STAGES:
        model = root / f"{arm}-seed{seed}" / stage / "model"
        if not (model / "config.json").is_file():
            continue
        for blind in (False, True) if arm == "zoom" and stage == STAGES[-1] else (False,):
            cache = cache_of(arm, seed, stage, root, blind=blind)
            measure(model, data_of(arm, root), count, blind=blind, tools=arm == "zoom", cache=cache)


def cache_of(arm: str, seed: int, stage: str, root: Path, *, blind: bool) -> Path:
    return root / f"accuracy-{arm}{'-blind' if blind else ''}-seed{seed}-{stage}.json"


def table(seeds: list[int], root: Path) -> int:
    """Print what there is; 1 where a bound is missed."""
    columns = [
        ("zoom", False, "zoom", "right"),
        ("single", False, "single look", "right"),
        ("zoom", True, "random crop", "right"),
        ("zoom", False, "target shown", "shown"),
    ]
    shown = [(stage, *column) for stage in STAGES for column in columns if not column[1] or stage == STAGES[-1]]
    heads = [f"{label}, {stage[2:]}" for stage, _, _, label, _ in shown]
    print(f"{'seed':>5} {'screens':>8} " + " ".join(f"{head:>18}" for head in heads))
    gains, falls, failures = [], [], []
    for seed in seeds:
        shares: dict[tuple[str, str], float | None] = {}
        screens = 0
        for stage, arm, blind, label, key in shown:
            cache = cache_of(arm, seed, stage, root, blind=blind)
            held = json.loads(cache.read_text(encoding="utf-8"))[key] if cache.is_file() else None
            shares[stage, label] = None if held is None else 100 * float(np.mean(held))
            screens = screens if held is None else len(held)
        cells = ("-" if shares[key] is None else f"{shares[key]:.1f} %" for key in shares)
        print(f"{seed:>5} {screens:>8} " + " ".join(f"{cell:>18}" for cell in cells))
        zoom, single, blind_zoom = (shares[STAGES[1], label] for _, _, label, _ in columns[:3])
        if zoom is None or single is None or blind_zoom is None:
            failures.append(f"seed {seed} is not finished")
            continue
        gains.append(zoom - single)
        falls.append(zoom - blind_zoom)
    for name, values, least in (("zoom - single look", gains, POINTS), ("zoom - random crop", falls, 0.0)):
        if not values:
            continue
        mean, low, high = interval(values)
        print(f"{name}: {mean:+.1f} points ({low:+.1f} .. {high:+.1f}, {len(values)} seeds)")
        if mean < least or low <= 0:
            failures.append(f"{name} is {mean:.1f} points, needed are {least:g} with an interval above 0")
    for failure in failures:
        print(f"FALLS SHORT: {failure}")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/perf_zoom"))
    parser.add_argument("--screens", type=int, default=300, help="test screens for each figure (300)")
    parser.add_argument("--train-only", choices=ARMS, help="only this arm")
    parser.add_argument("--table-only", action="store_true", help="print what there is, train nothing")
    parser.add_argument("overrides", nargs="*", help="of the recipe, for instance stages.1.args.max_steps=10")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table_only:
        for seed in options.seeds:
            for arm in ARMS if options.train_only is None else (options.train_only,):
                train(arm, seed, options.out, options.overrides)
                evaluate(arm, seed, options.out, options.screens)
    return table(options.seeds, options.out)


if __name__ == "__main__":
    sys.exit(main())
