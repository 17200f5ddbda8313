"""Curation: keep the rows worth training on, and say of every other why not.

    python -m data_prep curate --root data/refcoco --out data/refcoco-clean
    python -m data_prep curate ... --benchmark screenspot_pro=DIR --against data/held-out      # no leakage
    python -m data_prep curate ... --results runs/x/eval/results.jsonl                         # difficulty
    python -m data_prep curate ... --attention scores.jsonl --balance 2

Nothing is changed in a row that stays, except that its measured pass rate is written into `meta`.
"""
