"""Sources of video spans read files of their exact format; numbers worked by hand."""

from __future__ import annotations

from grounding.targets import Span
from tests.data_prep.helpers_data import convert, reasons, write_json, write_picture


def frames(root, video, count):
    for n in range(1, count + 1):
        write_picture(root / "frames" / video / f"{n:05d}.jpg", 32, 24)


def test_charades_sta_lines(tmp_path):
    frames(tmp_path, "AO8RW", 10)
    (tmp_path / "charades_sta_train.txt").write_text(
        "AO8RW 0.0 6.9##a person is putting a book on a shelf.\nAO8RW 5 3##swapped\nAO8RW 1 2\nZZ 0 1##no frames\n"
    )
    (tmp_path / "charades_sta_test.txt").write_text("AO8RW 20.0 34.5##late\nAO8RW 40 41##too late\n")
    (tmp_path / "lengths.csv").write_text("id,subject,length\nAO8RW,x,33.75\n")
    items, rejects = convert(
        "charades_sta", tmp_path, "--lengths", "lengths.csv", "--fps", "0.5", "--max-frames", "4"
    )
    first, late = (item.sample for item in items)
    assert first.target == Span(0.0, 6.9) and late.target == Span(20.0, 33.75)
    assert [image.path[-9:] for image in first.images] == ["00001.jpg", "00004.jpg", "00007.jpg", "00010.jpg"]
    assert first.meta["frame_times"] == "0 6 12 18" and first.meta["duration"] == 33.75
    assert items[1].split == "test"
    assert reasons(rejects) == ["swapped corners", "wrong format", "missing image", "span outside"]


def test_activitynet_moments(tmp_path):
    frames(tmp_path, "v_a", 3)
    entry = {
        "duration": 20.0,
        "timestamps": [[0, 4.5], [4.5, 21.0], [1, float("nan")]],
        "sentences": ["a", " b", "c"],
    }
    write_json(tmp_path / "train.json", {"v_a": entry, "v_b": {"duration": 3}})
    items, rejects = convert("activitynet", tmp_path)
    assert [(item.sample.instruction, item.sample.target) for item in items] == [
        ("a", Span(0, 4.5)),
        ("b", Span(4.5, 20)),
    ]
    assert reasons(rejects) == ["not a number", "wrong format"]


def test_time_r1_and_tvgbench(tmp_path):
    frames(tmp_path, "abc", 4)
    frames(tmp_path, "long_10_40", 4)
    write_json(
        tmp_path / "train_2k5.json",
        [
            {"video": "./d/abc.mp4", "duration": 93.3, "timestamp": [1.0, 4.0], "sentence": "a", "qid": "q",
             "video_start": None, "video_end": None, "difficulty": 50.0},
            {"video": "./d/long.mp4", "duration": 30, "timestamp": [1.0, 4.0], "sentence": "b", "video_start": 10,
             "video_end": 40},
        ],
    )  # fmt: skip
    write_json(
        tmp_path / "tvgbench.json",
        [
            {
                "path": "./d/abc.mp4",
                "duration": 30.12,
                "answer": "13.4-28.1",
                "question": "c",
                "start": None,
                "end": None,
            }
        ],
    )
    items, rejects = convert("time_r1", tmp_path, "--annotations", "train_2k5.json", "tvgbench.json")
    assert [item.sample.target for item in items] == [Span(1, 4), Span(1, 4), Span(13.4, 28.1)]
    assert items[0].sample.meta["difficulty"] == "50.0" and items[1].sample.meta["video"] == "long_10_40"
    assert not rejects


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 9, 10):
        write_picture(tmp_path / f"frames/v_a/frame_{number}.png", 8, 6)
    write_json(tmp_path / "train.json", {"v_a": {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["a"]}})
    (item,), _ = convert("activitynet", tmp_path)
    assert [image.path.rpartition("_")[2] for image in item.sample.images] == ["1.png", "2.png", "9.png", "10.png"]
    assert item.sample.question.startswith("<0.0 seconds><image><0.5 seconds><image><1.0 seconds><image>")
