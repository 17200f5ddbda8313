"""Frames of real video files, encoded here: which frame is shown when, and what is wrong with a broken file.

Every frame shows its own number, as twelve black or white columns.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from data_prep.pipeline.clips import read_frames, spread
from grounding.errors import UsageError
from grounding.targets import Span
from tests.data_prep.helpers_data import convert, reasons, write_json, write_jsonl

av = pytest.importorskip("av")
BITS, FPS = 12, 25


def encode(path, frames, *, codec="libx264", first=0, options=None, times=None):
    """A clip of `frames` frames, from second `first` on; `times` are their own, in frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 16 * BITS, 48, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number in range(frames):
            bits = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8) * 255
            pixels = np.repeat(np.broadcast_to(np.repeat(bits, 16), (48, 16 * BITS))[..., None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = first * FPS + (number if times is None else times[number])
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown(image: Image.Image) -> int:
    columns = np.asarray(image.convert("L").resize((BITS, 1), Image.Resampling.BOX))[0]
    return int(sum(1 << bit for bit in range(BITS) if columns[bit] > 127))


def numbers(path, seconds, **options):
    clip, frames = read_frames(path, lambda clip: seconds, **options)
    return clip, [(time, shown(image)) for time, image in frames]


@pytest.fixture(scope="module")
def minute(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clips") / "minute.mp4", 60 * FPS)


def test_the_times_of_a_minute_are_right_to_half_a_frame(minute):
    wanted = sorted([*spread(60, 2, 64), *np.random.default_rng(0).uniform(0, 59.9, 60).tolist(), 59.96])
    clip, found = numbers(minute, wanted)
    assert clip.duration == pytest.approx(60) and clip.frame == pytest.approx(0.04)
    assert len(found) == len(wanted)
    for second, (time, number) in zip(wanted, found, strict=True):
        assert abs(time - second) <= 0.0201 and time == pytest.approx(number / FPS)


def test_seconds_count_from_the_first_picture(tmp_path):
    path = encode(tmp_path / "late.mp4", 3 * FPS, first=7)
    assert numbers(path, [0, 1, 2.49])[1] == [(0, 0), (1, 25), (pytest.approx(2.48), 62)]


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")])
def test_other_containers_and_codecs(tmp_path, suffix, codec):
    path = encode(tmp_path / f"a.{suffix}", 20 * FPS, codec=codec)
    assert [number for _, number in numbers(path, [0, 0.4, 12, 19.9])[1]] == [0, 10, 300, 498]


def test_a_frame_that_stays_is_shown_until_the_next(tmp_path):
    path = encode(tmp_path / "screen.mp4", 4, times=[0, 5 * FPS, 6 * FPS, 9 * FPS])
    assert numbers(path, [0, 4.4, 5, 5.4, 8.4])[1] == [(0, 0), (4.4, 0), (5, 1), (5, 1), (8.4, 2)]


def test_frames_are_scaled_to_their_budget_of_pixels(minute):
    _, frames = read_frames(minute, lambda clip: [1.0], most_pixels=2304)
    assert frames[0][1].size == (96, 24) and shown(frames[0][1]) == 25


def test_choice_by_rate_and_budget():
    assert spread(10, 2, 64) == [i / 2 for i in range(20)]
    assert spread(600, 2, 4) == [0, 200, 399.5, 599.5]
    assert spread(0.1, 2, 4) == [0]


def broken(tmp_path, minute, name):
    path = tmp_path / f"{name}.mp4"
    if name == "cut":  # the index stands at the front, the pictures end in the middle
        whole = encode(tmp_path / "whole.mp4", 20 * FPS, options={"g": "25"})
        with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 5])
    elif name == "words":
        path.write_bytes(b"not a video" * 100)
    elif name == "nothing":
        path.write_bytes(b"")
    elif name == "no_frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [("words", "damaged"), ("nothing", "damaged"), ("no_frames", "empty|damaged"), ("cut", "damaged")],
)
def test_a_broken_clip_is_named_in_one_line(tmp_path, minute, name, reason):
    broken(tmp_path, minute, name)
    moment = {"duration": 20, "timestamps": [[1, 2]], "sentences": ["a door opens"]}
    write_json(tmp_path / "train.json", {name: moment})
    items, (reject,) = convert("activitynet", tmp_path, "--videos", ".")
    assert not items and reject.where == f"train.json:{name}-1"
    assert reject.reason.split()[0] in reason.split("|") and name in reject.detail and "\n" not in reject.detail


def test_a_data_set_of_decoded_frames(tmp_path, minute):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(minute)
    rows = {"a": {"timestamps": [[10, 12.5], [61, 62], [5, 5]], "sentences": ["one", "late", "none"]}}
    write_json(tmp_path / "train.json", rows)
    _, rejects = convert("activitynet", tmp_path, "--videos", "videos")
    assert set(reasons(rejects)) == {"path leaves the root"}
    (tmp_path / "videos" / "a.mp4").unlink()
    (tmp_path / "videos" / "a.mp4").write_bytes(minute.read_bytes())
    flags = ("--videos", "videos", "--fps", "1", "--max-frames", "4", "--frame-pixels", "2304")
    (item,), rejects = convert("activitynet", tmp_path, *flags)
    assert reasons(rejects) == ["span outside", "empty span"]
    sample = item.sample
    assert sample.target == Span(10, 12.5) and sample.meta["duration"] == pytest.approx(60)
    assert sample.frame_times == (0, 20, 39, 59) and [i.width for i in sample.images] == [96] * 4
    assert sample.question.startswith("<0.0 seconds><image><20.0 seconds><image>")
    assert set(item.files) == {image.path for image in sample.images}
    assert item.files[sample.images[1].path][:2] == b"\xff\xd8"


def test_a_part_of_a_video_counts_from_its_start(tmp_path, minute):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(minute.read_bytes())
    row = {"path": "x/a.mp4", "duration": 20, "answer": "2-4", "question": "b", "start": 30, "end": 50}
    write_json(tmp_path / "tvgbench.json", [row, {**row, "start": 90, "end": 110}])
    flags = ("--annotations", "tvgbench.json", "--videos", "v", "--fps", "0.1")
    (item,), rejects = convert("time_r1", tmp_path, *flags)
    assert item.sample.frame_times == (0, 10) and item.sample.meta["video"] == "a_30_50"
    assert reasons(rejects) == ["span outside"]


def annotations(root, benchmark):
    """The published file of a benchmark with one moment of the clip `a`, and what converts it."""
    moment = {"duration": 60, "timestamps": [[10, 20]], "sentences": ["a door opens"]}
    if benchmark == "charades_sta":
        (root / "charades_sta_test.txt").write_text("a 10 20##a door opens\n")
        return "charades_sta", "--annotations", "charades_sta_test.txt"
    if benchmark == "activitynet":
        write_json(root / "val_2.json", {"a": moment})
        return "activitynet", "--annotations", "val_2.json", "--as-split", "test"
    if benchmark == "tvgbench":
        row = {"path": "d/a.mp4", "duration": 60, "answer": "10-20", "question": "a door opens"}
        write_json(root / "tvgbench.json", [{**row, "start": None, "end": None}])
        return "time_r1", "--annotations", "tvgbench.json", "--as-split", "test"
    if benchmark == "nextgqa":
        (root / "test.csv").write_text(
            "video_id,question,answer,qid,type,a0,a1,a2,a3,a4\n"
            "a,why did he leave,a fire,3,CW,rain,a fire,hunger,a call,fun\n"
            "a,who is it,him,4,CW,him,her,it,them,us\n"
        )
        moments = {"a": {"duration": 60, "location": {"3": [[10, 20], [-0.1, 4]]}, "fps": 25}}
        write_json(root / "gsub_test.json", moments)
        return "nextgqa", "--as-split", "test"
    row = {"qid": 7, "query": "a door opens", "vid": "a", "duration": 60, "relevant_windows": [[10, 20], [30, 34]]}
    write_jsonl(root / "highlight_val_release.jsonl", [row])
    return "qvhighlights", "--annotations", "highlight_val_release.jsonl", "--as-split", "val"


@pytest.mark.parametrize("benchmark", ["charades_sta", "activitynet", "tvgbench", "qvhighlights", "nextgqa"])
def test_the_benchmarks_of_moments_can_be_asked(tmp_path, minute, benchmark, monkeypatch):
    """From the published file and the video to a score: 4 frames, asked as training asks, judged by its own rule."""
    from benchmarks import BENCHMARKS
    from benchmarks.harness import run
    from benchmarks.harness.backends.generate import Decoding, Output
    from data_prep.__main__ import main
    from models.profile import Profile

    raw, out = tmp_path / "raw", tmp_path / "set"
    (raw / "videos").mkdir(parents=True)
    (raw / "videos" / "a.mp4").write_bytes(minute.read_bytes())
    name, *flags = annotations(raw, benchmark)
    frames = ("--videos", "videos", "--max-frames", "4", "--frame-pixels", "2304")
    assert main([name, "--root", str(raw), "--out", str(out), *flags, *frames]) == 0
    bench = BENCHMARKS.get(benchmark)()
    items = run.with_sizes(run.read_items(bench, out, None), out)
    run.check_pictures(items, out, benchmark)
    asked = []

    class Answers:
        name = "answers"

        def generate(self, requests, decoding, seed):
            asked.extend(requests)
            answer = '"answer": "B", ' if benchmark == "nextgqa" else ""
            return [[Output(f'{{{answer}"start": 10.0, "end": 19.0}}')] for _ in requests]

    profile = Profile("qwen3_vl")
    run.answer_items(
        Answers(), bench, items, out, profile=profile, rule=bench.rule, decoding=Decoding(), out=tmp_path / "e",
        quiet=True,
    )  # fmt: skip
    (request,) = asked
    assert request.text.startswith(
        "<0.0 seconds><image><20.0 seconds><image><39.5 seconds><image><59.5 seconds><image>"
    )
    assert [shown(image) for image in request.images] == [0, 500, 988, 1488]
    replies = run.replies_of(tmp_path / "e", items, profile, 1)
    metrics = run.score(bench, replies, bench.rule, {}, None)
    assert metrics["n"] == metrics["correct"] == metrics["strict_correct"] == 1
    if benchmark == "nextgqa":
        assert "why did he leave\n(A) rain\n(B) a fire\n" in request.text


def test_what_cannot_be_done_is_said_at_once(tmp_path):
    write_json(tmp_path / "train.json", {"a": {"timestamps": [[0, 1]], "sentences": ["x"]}})
    for flags, said in ((("--videos", "no"), "no such folder"), (("--fps", "0"), "must be positive")):
        with pytest.raises(UsageError, match=said):
            convert("activitynet", tmp_path, *flags)
    _, rejects = convert("activitynet", tmp_path, "--videos", ".")
    assert reasons(rejects) == ["missing video"]
