"""ScreenSpot-Pro: professional software in high resolution, one click each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import ClickBenchmark, click_item
from benchmarks.harness.files import box
from benchmarks.harness.items import BenchmarkItem, Card, Published, Rule

_LEADERBOARD = "microsoft/FIVE-UI-Evol, UI-E2I-Synth/leaderboard/results/screenspot_pro.json"
_FILES = ("annotations/*.json", "*.json")


@BENCHMARKS.register("screenspot_pro")
class ScreenSpotPro(ClickBenchmark):
    """Split "cn" asks with the Chinese instructions."""

    splits = ("en", "cn")
    patterns: ClassVar = {"en": _FILES, "cn": _FILES}
    axes = ("ui_type", "group", "application", "platform")
    rule = Rule(boundary="closed", average="micro", over="group")
    card = Card(
        title="ScreenSpot-Pro",
        paper="Li et al. 2025, ScreenSpot-Pro, arXiv:2504.07981",
        get="https://huggingface.co/datasets/likaixin/ScreenSpot-Pro",
        license="MIT",
        files="annotations/*.json (26 files, one per application), images/",
        rule="click inside the box, edges included, on coordinates normalized by the image size; an output of the "
        "wrong format is wrong; micro average (eval_screenspot_pro.py). OmniParser scored half-open: "
        "--boundary half_open.",
        size={"en": 1581, "cn": 1581},
        published=(
            Published("MAI-UI-8B", 66.16, "Tongyi-MAI/MAI-UI, output_local/SSPro.json: 1046 of 1581"),
            Published(
                "OmniParser-v2 + GPT-4o", 39.53, "microsoft/OmniParser, logs_sspro_omniv2.json: 625, half-open"
            ),
            Published("UI-TARS-72B", 38.14, _LEADERBOARD),
            Published("UI-TARS-7B", 35.74, _LEADERBOARD),
            Published("UGround-V1-7B", 31.06, _LEADERBOARD),
            Published("UI-TARS-2B", 27.70, _LEADERBOARD),
            Published("Aguvis-7B", 22.90, _LEADERBOARD),
            Published("OS-Atlas-7B", 18.91, _LEADERBOARD),
            Published("Claude computer use", 17.10, _LEADERBOARD),
            Published("Qwen2-VL-7B", 1.58, _LEADERBOARD),
        ),
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        groups = {axis: str(row[axis]) for axis in self.axes if axis in row}
        words = "instruction_cn" if split == "cn" else "instruction"
        yield click_item(row, f"{file.stem}_{number}", box(row["bbox"]), groups, words)

    def image_root(self, root: Path) -> Path:
        folder = root if root.is_dir() else root.parent
        for base in (folder, folder.parent):
            if (base / "images").is_dir():
                return base / "images"
        return folder
