"""ScreenSpot and ScreenSpot-v2: mobile, desktop and web screenshots, one click each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.clicks import ClickBenchmark, click_item, picture_of
from benchmarks.harness.files import box, corners, find, naming, numbers
from benchmarks.harness.items import XYXY, BenchmarkItem, Card, Published, Rule
from benchmarks.harness.rows import read_rows

_PLATFORMS = ("desktop", "mobile", "web")
_PREFIX = {"pc": "desktop", "mobile": "mobile", "web": "web"}

_LEADERBOARD = "microsoft/FIVE-UI-Evol, UI-E2I-Synth/leaderboard/results/screenspot_v2.json"


class _ScreenSpot(ClickBenchmark):
    splits = ("all", *_PLATFORMS)
    rule = Rule(boundary="closed", average="micro", over="cell")
    names: ClassVar[tuple[str, ...]]

    def read(self, root: Path, split: str) -> list[BenchmarkItem]:
        items: list[BenchmarkItem] = []
        for platform in _PLATFORMS if split == "all" and root.is_dir() else (split,):
            for file in find(root, {p: self._names(p) for p in _PLATFORMS}, platform, self.card.files):
                for number, (where, row) in enumerate(read_rows(file)):
                    with naming(where):
                        items.append(self._item(row, number, file))
        return items

    def _names(self, platform: str) -> list[str]:
        return [name.format(platform) for name in (*self.names, "**/*screenspot*{}*.json")]

    def _item(self, row: Mapping[str, Any], number: int, file: Path) -> BenchmarkItem:
        name = picture_of(row).path.rpartition("/")[2]
        # The platform comes from the file name: data_source says "shop" for web pages of the mobile set, too.
        platform = _PREFIX.get(name.partition("_")[0]) or next((p for p in _PLATFORMS if p in file.stem), "other")
        kind = str(row.get("data_type") or row.get("ui_type") or "unknown")
        groups = {"platform": platform, "type": kind, "cell": f"{platform} {kind}"}
        if row.get("data_source"):
            groups["source"] = str(row["data_source"])
        return click_item(row, f"{platform}_{number}", _pixels(row), groups)


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

    names = ("**/screenspot_{}.json",)
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

    names = ("**/screenspot_{}_v2.json", "**/screenspot_{}_v2_convert.json", "**/screenspotv2_{}_*.json")
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
            Published("OS-Atlas-7B", 83.33, _LEADERBOARD),
            Published("ShowUI-2B", 77.28, _LEADERBOARD),
            Published("UGround-7B", 76.26, _LEADERBOARD),
            Published("OS-Atlas-4B", 68.47, _LEADERBOARD),
            Published("SeeClick-7B", 53.85, _LEADERBOARD),
            Published("Qwen2-VL-7B", 39.78, _LEADERBOARD),
        ),
    )
