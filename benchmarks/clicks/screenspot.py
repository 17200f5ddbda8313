"""ScreenSpot, ScreenSpot-v2 and ScreenSpot-Pro: one click on a GUI element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.io.official_files import box, corners, numbers
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, Published, Rule
from benchmarks.harness.row_benchmark import ClickBenchmark, picture_of

_PLATFORMS = ("desktop", "mobile", "web")
_PREFIX = {"pc": "desktop", "mobile": "mobile", "web": "web"}

_LEADERBOARD = "microsoft/FIVE-UI-Evol, UI-E2I-Synth/leaderboard/results"


class _ScreenSpot(ClickBenchmark):
    splits = ("all", *_PLATFORMS)
    parts = _PLATFORMS
    rule = Rule(boundary="closed", average="micro", over="cell")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        groups = self.groups(row, file)
        yield self.item(row, f"{groups['platform']}_{number}", groups, _pixels(row))

    def groups(self, row: Mapping[str, Any], file: Path) -> dict[str, str]:
        name = picture_of(row).path.rpartition("/")[2]
        # The platform comes from the file name: data_source says "shop" for web pages of the mobile set, too.
        platform = _PREFIX.get(name.partition("_")[0]) or next((p for p in _PLATFORMS if p in file.stem), "other")
        kind = str(row.get("data_type") or row.get("ui_type") or "unknown")
        source = {"source": str(row["data_source"])} if row.get("data_source") else {}
        return {"platform": platform, "type": kind, "cell": f"{platform} {kind}", **source}


def _names(*names: str) -> dict[str, list[str]]:
    """Patterns per platform, for `{}` in each name."""
    return {p: [name.format(p) for name in (*names, "**/*screenspot*{}*.json")] for p in _PLATFORMS}


def _pixels(row: Mapping[str, Any]) -> XYXY:
    """`bbox` as corners in pixels, by the keys of the row.

    The original is xywh. Copies in ScreenSpot-Pro's form have `img_size` and corners in pixels; UGround's and
    OS-Atlas's have `image_size` and corners in [0, 1]. A row with `image_size` and larger numbers is an original with
    the size added; one that would reach beyond its image then is neither.

    Raises:
        ValueError: corners that are not in order, or a box that does not fit its image.
    """
    if row.get("img_size"):
        return box(row["bbox"])
    four, shown = numbers(row["bbox"], 4), picture_of(row)
    if shown.known and max(four) <= 1:
        pixels = (side * part for side, part in zip((shown.width, shown.height) * 2, four, strict=True))
        return box([round(value, 6) for value in pixels])
    found = corners(four)
    if shown.known and (found[2] > shown.width + 1 or found[3] > shown.height + 1):
        raise ValueError(
            f"bbox {four} as x, y, w, h reaches beyond its image of {shown.width} x {shown.height}; copies with "
            "corners in pixels need the key 'img_size', those in [0, 1] no number above 1"
        )
    return found


@BENCHMARKS.register("screenspot")
class ScreenSpot(_ScreenSpot):
    """ScreenSpot as published with SeeClick."""

    patterns: ClassVar = _names("**/screenspot_{}.json")
    card = Card(
        title="ScreenSpot",
        paper="Cheng et al. 2024, SeeClick, arXiv:2401.10935",
        get="https://huggingface.co/datasets/rootsautomation/ScreenSpot or the SeeClick repository",
        license="Apache-2.0 (SeeClick repository); screenshots: not stated",
        files="screenspot_desktop.json, screenspot_mobile.json, screenspot_web.json, and the images",
        rule="click inside the box, edges included (SeeClick). Papers report the micro average or the mean of six "
        "cells (platform x text/icon): both are given, --average chooses the headline.",
        size={"all": 1272},
    )


@BENCHMARKS.register("screenspot_v2")
class ScreenSpotV2(_ScreenSpot):
    """The corrected labels of OS-Atlas."""

    patterns: ClassVar = _names(
        "**/screenspot_{}_v2.json", "**/screenspot_{}_v2_convert.json", "**/screenspotv2_{}_*.json"
    )
    card = Card(
        title="ScreenSpot-v2",
        paper="Wu et al. 2024, OS-ATLAS, arXiv:2410.23218",
        get="https://huggingface.co/datasets/OS-Copilot/ScreenSpot-v2",
        license="Apache-2.0",
        files="screenspot_desktop_v2.json, screenspot_mobile_v2.json, screenspot_web_v2.json, and the images "
        "(xywh in the original; copies with corners have img_size, or image_size and numbers in [0, 1])",
        rule="click inside the box, edges included; micro average over 1272 items",
        size={"all": 1272, "desktop": 334, "mobile": 501, "web": 437},
        published=(
            Published("MAI-UI-8B", 95.13, "Tongyi-MAI/MAI-UI, output_local/SSV2.json: 1210 of 1272"),
            Published("OS-Atlas-7B", 83.33, f"{_LEADERBOARD}/screenspot_v2.json"),
            Published("ShowUI-2B", 77.28, f"{_LEADERBOARD}/screenspot_v2.json"),
            Published("UGround-7B", 76.26, f"{_LEADERBOARD}/screenspot_v2.json"),
            Published("OS-Atlas-4B", 68.47, f"{_LEADERBOARD}/screenspot_v2.json"),
            Published("SeeClick-7B", 53.85, f"{_LEADERBOARD}/screenspot_v2.json"),
            Published("Qwen2-VL-7B", 39.78, f"{_LEADERBOARD}/screenspot_v2.json"),
        ),
    )


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
            Published("UI-TARS-72B", 38.14, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("UI-TARS-7B", 35.74, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("UGround-V1-7B", 31.06, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("UI-TARS-2B", 27.70, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("Aguvis-7B", 22.90, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("OS-Atlas-7B", 18.91, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("Claude computer use", 17.10, f"{_LEADERBOARD}/screenspot_pro.json"),
            Published("Qwen2-VL-7B", 1.58, f"{_LEADERBOARD}/screenspot_pro.json"),
        ),
    )

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        asked = {**row, "instruction": row["instruction_cn"]} if split == "cn" else row
        yield from super().items_of(asked, number, file, split)

    def image_root(self, root: Path) -> Path:
        folder = root if root.is_dir() else root.parent
        for base in (folder, folder.parent):
            if (base / "images").is_dir():
                return base / "images"
        return folder
