"""WAAD and FAI from bands against the same signals from full attention maps, on one thread.

    python perf/attention_signals.py            # some two minutes; exits 1 when a claim falls short

Both start from the same q, k and, for the bands, the log-sum-exp that the flash kernel returned anyway. The full
maps are made as transformers' eager attention makes them (without the product with the values), the signals are
operations on whole tensors of them. Each number is of a fresh process. Seconds are CPU seconds of one thread, the
least of several runs; memory is the growth of the peak resident size over the inputs. Both compute both signals for
all heads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention.signals import Rows, fai, waad

HEADS, SIZE = 16, 64
WINDOW, LOW, HIGH = 10, 10, 100
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
FULL_LENGTHS = (1024, 2048, 4096)
AT = 4096
FASTER, SMALLER, FLAT = 100.0, 50.0, 1.3


def bands(rows: Rows) -> tuple[Tensor, Tensor]:
    everything = torch.ones(1, len(rows), dtype=torch.bool)
    return waad(rows, everything, WINDOW), fai(rows, everything, LOW, HIGH)


def full_maps(rows: Rows) -> tuple[Tensor, Tensor]:
    length = len(rows)
    at = torch.arange(length)
    gap = at[:, None] - at
    causal = torch.zeros(length, length).masked_fill_(gap < 0, torch.finfo(torch.float32).min)
    attention = (rows.q @ rows.k.transpose(-1, -2) * rows.scale + causal).softmax(-1)
    near = (attention * gap.clamp(max=WINDOW)).sum(-1)
    band = (gap >= LOW) & (gap <= HIGH)
    return near, (attention * band).sum(-2) / band.sum(0)


def make_rows(length: int) -> Rows:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, length, HEADS, SIZE).transpose(1, 2) for _ in range(3))  # as a model lays them out
    scale = SIZE**-0.5
    if length > max(FULL_LENGTHS):  # what the kernel returns does not change the cost
        return Rows(q, k, torch.full(q.shape[:3], 8.0), scale, 0)
    _, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
    return Rows(q, k, lse, scale, 0)


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which the peak resident size grows over the present one during `call` (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def measure(kind: str, length: int, repeats: int) -> dict[str, float]:
    """In the child: seconds, bytes, and the largest difference from the other way where that is affordable."""
    torch.set_num_threads(1)
    call = bands if kind == "bands" else full_maps
    call(make_rows(256))  # load the libraries
    rows = make_rows(length)
    size = peak_growth(lambda: call(rows))
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        call(rows)
        best = min(best, time.process_time() - started)
    error = 0.0
    if kind == "bands" and length in FULL_LENGTHS:
        for found, expected in zip(bands(rows), full_maps(rows), strict=True):
            difference = (found - expected).abs() / expected.nanmean()
            error = max(error, difference.nan_to_num().max().item())
    return {"seconds": best, "bytes": size, "error": error}


def in_child(kind: str, length: int, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, str(length), str(repeats)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, length, repeats = args.child
        print(json.dumps(measure(kind, int(length), int(repeats))))
        return 0
    print(f"{HEADS} heads of {SIZE}, float32, one thread; WAAD (W = {WINDOW}) and FAI ({LOW} to {HIGH})")
    print("     N   bands s  us/token   full s   faster   bands MB   full MB  smaller   largest error / mean")
    found = {}
    for length in LENGTHS:
        # Short passes are over before caches and clocks have settled: as long a look at every length, and two of
        # them, since a process keeps the memory pages that it got at its start.
        count = args.repeats * max(LENGTHS) // length
        own = min((in_child("bands", length, count) for _ in range(2)), key=lambda run: run["seconds"])
        full = in_child("full", length, 3) if length in FULL_LENGTHS else None
        found[length] = (own, full)
        line = f"{length:6d} {own['seconds']:9.4f} {own['seconds'] / length * 1e6:9.2f}"
        if full:
            line += f" {full['seconds']:8.2f} {full['seconds'] / own['seconds']:7.0f}x"
            line += f" {own['bytes'] / 1e6:10.2f} {full['bytes'] / 1e6:9.0f} {full['bytes'] / own['bytes']:7.0f}x"
            line += f"   {own['error']:.1e}"
        else:
            line += f" {'':17} {own['bytes'] / 1e6:10.2f}"
        print(line, flush=True)
    own, full = found[AT]
    per_token = [own["seconds"] / length for length, (own, _) in found.items()]
    claims = {
        f"at least {FASTER:.0f}x faster at {AT}": full["seconds"] / own["seconds"] >= FASTER,
        f"at most 1/{SMALLER:.0f} of the memory at {AT}": full["bytes"] / own["bytes"] >= SMALLER,
        f"time per token flat within {FLAT}x ({max(per_token) / min(per_token):.2f}x)": max(per_token)
        <= FLAT * min(per_token),
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FALLS SHORT'}: {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
