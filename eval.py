"""Evaluate a model, or score anybody's predictions, on a grounding benchmark by its own rule.

    python eval.py --model runs/x/final --benchmark screenspot_pro --data DIR --out runs/x/eval
    python eval.py --model runs/x/final --data data/screens --samples 8 --temperature 1 --out DIR
    python eval.py --benchmark screenspot_pro --data DIR --predictions preds.jsonl --space pixel --out DIR
    python eval.py compare OUT_A OUT_B         paired difference, McNemar's test, what changed item by item
    python eval.py list [BENCHMARK]            what there is: rule, files, source, license, published numbers
    python eval.py items --benchmark B --data DIR     ids, images and instructions, to make predictions for

A run that is killed continues where it was: run the same command again. On several GPUs:
`accelerate launch eval.py --model ...`. Training is train.py's business; nothing here imports it.
"""

from __future__ import annotations

import sys

from benchmarks.harness.cli import main
from grounding.command_line import run_command

if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:]), resumes=True))
