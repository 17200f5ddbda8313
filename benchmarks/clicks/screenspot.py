"""ScreenSpot, ScreenSpot-v2 and ScreenSpot-Pro: one click on a GUI element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.io.official_files import box, corners, numbers
from benchmarks.harness.items import XYXY, BenchmarkItem, Rule, read_card
from benchmarks.harness.row_benchmark import ClickBenchmark, picture_of

_PLATFORMS = ("desktop", "mobile", "web")
_PREFIX = {"pc": "desktop", "mobile": "mobile", "web": "web"}


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
    card = read_card(__file__, "screenspot")


@BENCHMARKS.register("screenspot_v2")
class ScreenSpotV2(_ScreenSpot):
    """The corrected labels of OS-Atlas."""

    patterns: ClassVar = _names(
        "**/screenspot_{}_v2.json", "**/screenspot_{}_v2_convert.json", "**/screenspotv2_{}_*.json"
    )
    card = read_card(__file__, "screenspot_v2")


_FILES = ("annotations/*.json", "*.json")


@BENCHMARKS.register("screenspot_pro")
class ScreenSpotPro(ClickBenchmark):
    """Split "cn" asks with the Chinese instructions."""

    splits = ("en", "cn")
    patterns: ClassVar = {"en": _FILES, "cn": _FILES}
    axes = ("ui_type", "group", "application", "platform")
    rule = Rule(boundary="closed", average="micro", over="group")
    card = read_card(__file__, "screenspot_pro")

    def items_of(self, row: Mapping[str, Any], number: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        asked = {**row, "instruction": row["instruction_cn"]} if split == "cn" else row
        yield from super().items_of(asked, number, file, split)

    def image_root(self, root: Path) -> Path:
        folder = root if root.is_dir() else root.parent
        for base in (folder, folder.parent):
            if (base / "images").is_dir():
                return base / "images"
        return folder
