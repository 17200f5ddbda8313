"""One file per public grounding benchmark; `benchmarks.harness` holds what they share.

A benchmark reads its official files into items, knows the official rule, and never sees how an answer was
worded: answers reach it as `Prediction`s, read by the declared dialect or coordinate space alone.
"""

from typing import TYPE_CHECKING

from grounding.registry import Registry

if TYPE_CHECKING:
    from benchmarks.harness.benchmark import Benchmark

BENCHMARKS: "Registry[type[Benchmark]]" = Registry("benchmark", "benchmarks", skip=("harness",))
