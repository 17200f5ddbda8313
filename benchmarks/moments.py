"""Charades-STA, ActivityNet Captions and TVGBench: when in the video does this happen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import BENCHMARKS
from benchmarks.harness.files import RowBenchmark, identity, listed, number, picture, span, words
from benchmarks.harness.items import XY, BenchmarkItem, Card, Published, Rule, Truth
from benchmarks.harness.rows import KEY

_RULE = Rule(iou_op="ge", thresholds=(0.3, 0.5, 0.7), main=0.5)
_WORDS = (
    "R1@0.3 / 0.5 / 0.7 and mean IoU of the first span; an unreadable answer has IoU 0. A threshold met exactly "
    "counts (TimeChat, lmms-eval); --iou-op gt where a paper says otherwise."
)
_TIME_R1 = "github.com/xiaomi-research/time-r1 README.md"
_SECONDS = re.compile(r"([\d.]+)\s*-\s*([\d.]+)")


class _PerVideo(RowBenchmark):
    """Files of the form ``{"VIDEO": {"duration": 30.9, "timestamps": [[s, e], ...], "sentences": [...]}}``, or
    captions in COCO's form (TimeChat): ``{"annotations": [{"image_id": "VIDEO.mp4", "timestamp": [s, e], "caption":
    "..."}]}``.
    """

    asks = "span"
    rule = _RULE

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        seconds = row.get("duration", row.get("video_duration"))
        if "caption" in row:
            video = identity(row["image_id"])
            yield _item(identity(row.get("id", place)), video, row["caption"], span(row["timestamp"]), seconds)
            return
        video, spans, sentences = row[KEY], listed(row["timestamps"]), listed(row["sentences"])
        if len(spans) != len(sentences):
            raise ValueError(f"{len(spans)} timestamps, {len(sentences)} sentences")
        if seconds is None:
            raise KeyError("duration")
        for index, (seen, sentence) in enumerate(zip(spans, sentences, strict=True)):
            yield _item(f"{video}_{index}", video, sentence, span(seen), seconds)


def _item(name: str, video: str, sentence: Any, moment: XY, seconds: Any) -> BenchmarkItem:
    return BenchmarkItem(
        id=name,
        images=(picture(video),),
        instruction=words(sentence).strip(),
        truth=Truth(spans=(moment,)),
        asks="span",
        frame="unit",
        meta={} if seconds is None else {"duration": number(seconds)},
    )


@BENCHMARKS.register("charades_sta")
class CharadesSTA(_PerVideo):
    """The usual test split and the reorganized ones (out of distribution, novel words and compositions)."""

    splits = ("test", "test_iid", "test_ood", "novel_composition", "novel_word", "test_trivial")
    patterns: ClassVar = {
        "test": [
            "**/charades_test.json",
            "**/charades_annotation/val.json",
            "**/*charades*/**/test.caption_coco_format.json",
            "test.caption_coco_format.json",
        ],
        "test_iid": ["**/charades_test_iid.json"],
        "test_ood": ["**/charades_test_ood.json"],
        "novel_composition": ["**/novel_composition.json"],
        "novel_word": ["**/novel_word.json"],
        "test_trivial": ["**/test_trivial.json"],
    }
    card = Card(
        title="Charades-STA",
        paper="Gao et al. 2017, TALL, arXiv:1705.02101; iid/ood: Yuan et al. 2021; novel: Li et al. 2022",
        get="https://github.com/www-Ye/Time-R1 (dataset/charades-sta); videos: Charades",
        license="Charades: non-commercial research",
        files="charades_test.json: {video: {duration, timestamps, sentences}}; or TimeChat's "
        "test.caption_coco_format.json",
        rule=_WORDS,
        size={"test": 3720},
        published=(
            Published("Time-R1-7B, fine-tuned", 72.2, _TIME_R1, "R1@0.5"),
            Published("EaTR, fine-tuned", 68.4, _TIME_R1, "R1@0.5"),
            Published("TimeSuite, fine-tuned", 67.1, _TIME_R1, "R1@0.5"),
            Published("Time-R1-7B, zero-shot", 60.8, _TIME_R1, "R1@0.5"),
            Published("VideoChat-Flash, zero-shot", 53.1, _TIME_R1, "R1@0.5"),
        ),
    )


@BENCHMARKS.register("activitynet")
class ActivityNet(_PerVideo):
    """The captions' second validation set is what most papers call test."""

    splits = ("test", "val")
    patterns: ClassVar = {
        "test": ["**/activitynet/test.json", "**/val_2.json", "test.json"],
        "val": ["**/activitynet/val.json", "**/val_1.json", "val.json"],
    }
    card = Card(
        title="ActivityNet Captions",
        paper="Krishna et al. 2017, arXiv:1705.00754",
        get="https://github.com/www-Ye/Time-R1 (dataset/activitynet); videos: ActivityNet",
        license="MIT (captions); videos: terms of YouTube",
        files="test.json (val_2) and val.json (val_1): {video: {duration, timestamps, sentences}}",
        rule=_WORDS,
        published=(
            Published("EaTR, fine-tuned", 58.2, _TIME_R1, "R1@0.5"),
            Published("Time-R1-7B, fine-tuned", 55.6, _TIME_R1, "R1@0.5"),
            Published("SSRN, fine-tuned", 54.5, _TIME_R1, "R1@0.5"),
            Published("Time-R1-7B, zero-shot", 39.0, _TIME_R1, "R1@0.5"),
            Published("HawkEye, zero-shot", 29.3, _TIME_R1, "R1@0.5"),
        ),
    )


@BENCHMARKS.register("tvgbench")
class TVGBench(RowBenchmark):
    """800 questions of eleven kinds, from five data sets."""

    asks = "span"
    rule = _RULE
    patterns: ClassVar = {"test": ["**/tvgbench.json", "**/*tvg*.json*"]}
    card = Card(
        title="TVGBench",
        paper="Wang et al. 2025, Time-R1, arXiv:2503.13377",
        get="https://github.com/xiaomi-research/time-r1 (dataset/timer1/annotations/tvgbench.json)",
        license="Apache-2.0 (annotations); videos: terms of their sources",
        files="tvgbench.json: rows {path, question, answer 'start-end', duration, qsemtype, dataset_name}",
        rule=_WORDS,
        size={"test": 800},
        published=(
            Published("Time-R1-7B", 29.4, _TIME_R1, "R1@0.5"),
            Published("TRACE", 25.5, _TIME_R1, "R1@0.5"),
            Published("Gemini-2.5-Pro", 24.4, _TIME_R1, "R1@0.5"),
            Published("VideoChat-Flash", 19.8, _TIME_R1, "R1@0.5"),
            Published("TimeSuite", 18.0, _TIME_R1, "R1@0.5"),
        ),
    )

    def items_of(self, row: Mapping[str, Any], place: int, file: Path, split: str) -> Iterable[BenchmarkItem]:
        match = _SECONDS.fullmatch(str(row["answer"]).strip())
        if match is None:
            raise ValueError(f"answer {row['answer']!r} is not 'start-end'")
        groups = {"kind": str(row.get("qsemtype", "")), "source": str(row.get("dataset_name", ""))}
        moment = span(list(match.groups()))
        yield replace(_item(str(place), words(row["path"]), row["question"], moment, row["duration"]), groups=groups)
