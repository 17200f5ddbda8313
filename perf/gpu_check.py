"""What only a machine with an NVIDIA GPU can show, part by part, as one Markdown table: `make gpu-check`.

    python perf/gpu_check.py                  # under ten minutes on one GPU; goes on where it was stopped
    python perf/gpu_check.py --only step      # one part
    python perf/gpu_check.py --shrunken       # the same parts at the smallest size, also without a GPU

Every part is a process of its own, so that one which fails or hangs costs only itself. Parts that are done are lines
of a journal under `--out` and are not run again; it belongs to this device, PyTorch and checkout. A part that needs
something that is not there says so. The table goes to `--out`/table.md. Exits 1 when a part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention.signals import Rows
from data_prep.screens.generated import example
from grounding.errors import UsageError
from grounding.io import replacing, write_samples
from grounding.journal import Journal, read_journal
from perf.attention_signals import HEADS, SIZE, bands, full_maps

CUDA = torch.cuda.is_available()
ROOT = Path(__file__).parents[1]
GIT = [shutil.which("git") or "git", "rev-parse", "--short", "HEAD"]
LIMIT = 300  # seconds of a part


@dataclass(frozen=True)
class Part:
    """A check.

    Attributes:
        about: what it shows, for the table.
        run: returns what was found, in words; takes whether to run at the smallest size, and a folder to work in.
        needs: a library that users may not have, and a GPU.
    """

    about: str
    run: Callable[[bool, Path], str]
    needs: tuple[str, ...] = ()


def signals(shrunken: bool, folder: Path) -> str:
    """WAAD and FAI of the fused kernel's log-sum-exp against full maps in float64."""
    length, dtype = 512 if shrunken else 4096, torch.bfloat16 if CUDA else torch.float32
    device = "cuda" if CUDA else "cpu"
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, SIZE, dtype=dtype, device=device) for _ in range(3))
    scale = SIZE**-0.5
    if CUDA:
        lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False, scale=scale)[1]
    else:
        lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)[1]
    rows = Rows(q, k, lse, scale, 0)
    found, took = bands(rows), []
    for call in (bands, full_maps):
        _wait()
        started = time.perf_counter()
        call(rows)
        _wait()
        took.append(time.perf_counter() - started)
    exact = full_maps(Rows(q.double().cpu(), k.double().cpu(), lse.double().cpu(), scale, 0))
    error = max(
        ((own.double().cpu() - true).abs() / true.nanmean()).nan_to_num().max().item()
        for own, true in zip(found, exact, strict=True)
    )
    if error > (2e-2 if CUDA else 1e-4):
        raise SystemExit(f"signals are {error:.1e} of their mean away from full maps in float64")
    faster = f"{took[1] / took[0]:.0f} x faster than full maps at {length} tokens"
    return f"error {error:.1e} of the mean in {str(dtype)[6:]}; {faster}"


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def step(shrunken: bool, folder: Path) -> str:
    """A GRPO step against plain TRL's: perf/grpo_step.py."""
    scale = [
        "--scale",
        "gpu" if CUDA and not shrunken else "quickstart",
        "--steps",
        *(["1", "--arms", "prompts"] if shrunken else ["5"]),
    ]
    text = _say([sys.executable, ROOT / "perf/grpo_step.py", *scale], allowed=(0, 1))
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[2:]]
    return "; ".join(f"{row[0]}: {' '.join(row[1:])}" for row in rows if row and row[0])


def trains(config: str, *overrides: str) -> Callable[[bool, Path], str]:
    """SFT, then GRPO with credit, two steps each, under a launch configuration."""

    def run(shrunken: bool, folder: Path) -> str:
        chosen = config if CUDA else {"single_gpu": "cpu", "fsdp2": "cpu_two"}.get(config, f"cpu_{config}")
        count = [] if not CUDA or config == "single_gpu" else ["--num_processes", str(torch.cuda.device_count())]
        samples = [example(index, seed=0, split="train", difficulty=3) for index in range(32)]
        (folder / "data/images").mkdir(parents=True)
        for sample, image in samples:
            image.save(folder / "data" / sample.images[0].path)
        write_samples(folder / "data/train.jsonl", [sample for sample, _ in samples])
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        launch += [ROOT / f"configs/accelerate/{chosen}.yaml", *count]
        recipe = [ROOT / "train.py", ROOT / "configs/recipes/quickstart.yaml", f"output={folder}", "name=run"]
        recipe += [f"data={folder}/data", f"model.path={ROOT}/assets/fovea-tiny", "wandb=disabled"]
        recipe += [f"stages.{stage}.args.{key}" for stage in (0, 1) for key in ("max_steps=2", "logging_steps=1")]
        recipe += [f"stages.{stage}.args.per_device_train_batch_size=8" for stage in (0, 1)]
        recipe += ['stages.1.args.eval_strategy="no"', "stages.1.args.eval_on_start=false", "stages.1.eval=null"]
        _say([*launch, *recipe, "stages.1.credit.strategy=coupled_rhythm", *overrides])
        facts = json.loads((folder / "run/1-grpo/training.json").read_text(encoding="utf-8"))
        metrics = (folder / "run/1-grpo/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = [row["step_time"] for row in map(json.loads, metrics) if "step_time" in row]
        return f"{facts['processes']} process(es), {facts['distributed']}; second step {seconds[-1]:.1f} s"

    return run


def _say(command: list[object], allowed: tuple[int, ...] = (0,)) -> str:
    """What a command prints. Raises SystemExit with its last lines when it fails."""
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise SystemExit(" ".join(done.stderr.split("\n")[-4:])[-400:])
    return done.stdout


PARTS = {
    "signals": Part("attention signals from the fused kernel", signals),
    "step": Part("GRPO step, training pass and memory, of TRL's", step),
    "one": Part("SFT and GRPO with credit, one process", trains("single_gpu")),
    "zero2": Part("the same under DeepSpeed ZeRO-2", trains("zero2"), ("deepspeed",)),
    "zero3": Part("the same under DeepSpeed ZeRO-3", trains("zero3"), ("deepspeed",)),
    "fsdp2": Part("the same under FSDP2 (without a GPU: DDP)", trains("fsdp2")),
    "flash": Part(
        "the same with flash-attn",
        trains("single_gpu", "model.attn_implementation=flash_attention_2"),
        ("flash_attn", "a GPU"),
    ),
    "vllm": Part(
        "the same, rollouts by vLLM in the same process",
        trains("single_gpu", "stages.1.args.use_vllm=true", "stages.1.args.vllm_mode=colocate"),
        ("vllm", "a GPU"),
    ),
}


def header(shrunken: bool) -> dict[str, object]:
    """What the parts depend on."""
    device = torch.cuda.get_device_name() if CUDA else "no GPU"
    count = torch.cuda.device_count() if CUDA else 0
    commit = subprocess.run(GIT, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "device": f"{count} x {device}" if count else device,
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "shrunken": shrunken,
    }


def measure(name: str, out: Path, shrunken: bool) -> dict[str, object]:
    """The row of a part: run in a process of its own."""
    part = PARTS[name]
    missing = [need for need in part.needs if (not CUDA if need == "a GPU" else not importlib.util.find_spec(need))]
    if missing:
        return {"id": name, "state": "not run", "found": f"needs {' and '.join(missing)}", "seconds": 0}
    command = [sys.executable, __file__, "--part", name, "--out", out, *(["--shrunken"] if shrunken else [])]
    started = time.monotonic()
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=LIMIT)
        state = "ok" if done.returncode == 0 else "FAILED"
        words = (done.stdout if state == "ok" else done.stderr).strip().splitlines()
        found = words[-1] if words else "it said nothing"
    except subprocess.TimeoutExpired:
        state, found = "FAILED", f"not done after {LIMIT} seconds"
    return {"id": name, "state": state, "found": found, "seconds": round(time.monotonic() - started)}


def table(facts: dict[str, object], rows: list[dict[str, object]]) -> str:
    """Markdown."""
    title = f"{facts['device']}, torch {facts['torch']}, {date.today()}, commit {facts['commit']}"
    lines = [
        title + (", shrunken" if facts["shrunken"] else ""),
        "",
        "| part | state | found | s |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        words = str(row["found"]).replace("|", "/")
        lines.append(f"| {PARTS[str(row['id'])].about} | {row['state']} | {words} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrunken", action="store_true", help="the smallest size; what runs without a GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (all)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs/gpu-check", help="folder of the journal and the table"
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not CUDA and not options.shrunken:
        parser.error("there is no CUDA device; --shrunken runs the parts in small")
    if options.part:
        with tempfile.TemporaryDirectory() as folder:
            print(PARTS[options.part].run(options.shrunken, Path(folder)))
        return 0
    facts = header(options.shrunken)
    path, failed = options.out / "parts.jsonl", []
    try:
        journal = Journal(path, facts)
    except UsageError as error:
        parser.error(str(error))
    with journal:
        for name in options.only:
            if name in journal.ids:
                continue
            row = measure(name, options.out, options.shrunken)
            print(f"{name}: {row['state']}: {row['found']}", flush=True)
            if row["state"] == "FAILED":
                failed.append(row)  # is run again next time
            else:
                journal.append(row)
    done = {row["id"]: row for row in [*read_journal(path), *failed]}
    with replacing(options.out / "table.md") as path:
        path.write_text(table(facts, [done[name] for name in PARTS if name in done]), encoding="utf-8")
    print((options.out / "table.md").read_text(encoding="utf-8"))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
