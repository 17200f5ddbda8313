"""Sample files and images: streamed, atomic, and every broken row named."""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grounding.errors import BrokenRow, FoveaError, UsageError
from grounding.io import open_image, read_samples, write_samples
from grounding.sample import ImageRef, Sample, from_row, to_row
from grounding.targets import Absent, Box, Boxes, Point, Points, Polygon, Span, Target, TextBox

TARGETS: list[Target] = [
    Box(0.1, 0.2, 0.3, 0.4, label="ü"),
    Point(0, 1),
    Boxes((Box(0, 0, 1, 1), Box(0, 0, 0.5, 0.5, image=1))),
    Points((Point(0.25, 0.5),)),
    Polygon(((0, 0), (1, 0), (0.5, 1))),
    Span(1.5, 2),
    TextBox("42", ()),
    Absent(),
]
IMAGES = (ImageRef("images/a.png", 4, 3), ImageRef("images/b.png", 8, 6))


def samples() -> list[Sample]:
    return [
        Sample(
            str(k),
            IMAGES,
            f"find {k}",
            target,
            "test",
            "CC0-1.0",
            None if k % 2 else "it is [0.100, 0.200]",
            {"k": k},
        )
        for k, target in enumerate(TARGETS)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_kind_of_target_survives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    assert write_samples(path, samples()) == len(TARGETS)
    assert list(read_samples(path)) == samples()
    assert list(read_samples(path, limit=2)) == samples()[:2]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_parquet_is_what_datasets_reads(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_samples(path, samples())
    table = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert table[0]["target"]["regions"][0]["coords"] == [0.1, 0.2, 0.3, 0.4]
    assert len(table) == len(TARGETS)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_reading_streams(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    write_samples(path, itertools.islice(itertools.cycle(samples()), 3000))
    assert sum(1 for _ in read_samples(path)) == 3000
    assert len(list(read_samples(path, limit=1500))) == 1500


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_failing_source_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    write_samples(path, samples()[:1])

    def failing() -> Iterator[Sample]:
        yield samples()[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(path, failing())
    assert list(read_samples(path)) == samples()[:1]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveaError, match="cannot be written"):
        write_samples(tmp_path / "file" / "train.jsonl", samples())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "a list where an object is needed"),
        ("\udcff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": 1}', "column 'target' is missing|column 'id' is missing"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "train.jsonl"
    good = json.dumps(to_row(samples()[0]))
    path.write_text(f"{good}\n\n{line}\n{good}\n", errors="surrogateescape")
    rows = read_samples(path)
    assert next(rows) == samples()[0]
    with pytest.raises(BrokenRow, match=reason) as caught:
        next(rows)
    assert caught.value.where == f"{path}:3"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema version 2"),
        ({"extra": 1}, "unknown column 'extra'"),
        ({"id": ""}, "id is empty"),
        ({"instruction": " "}, "instruction is empty"),
        ({"images": []}, "no images"),
        ({"images": [{"path": "../a.png", "width": 1, "height": 1}]}, "must be relative"),
        ({"meta": "{"}, "Expecting property name"),
        ({"meta": "[1]"}, "meta is a list where an object is needed"),
        ({"meta": "1"}, "meta is a int where an object is needed"),
        ({"meta": "[" * 100_000}, "meta is nested too deeply"),
        ({"meta": '{"size": [1]}'}, r"meta\.size is a list; give a text, a number"),
        ({"target": {"kind": "circle", "text": None, "regions": []}}, "unknown target kind 'circle'"),
        ({"target": {"kind": "box", "text": None, "regions": []}}, "target box has 0 regions"),
        (
            {
                "target": {
                    "kind": "box",
                    "text": None,
                    "regions": [{"coords": [0, 0, 2, 1], "image": 0, "label": None}],
                }
            },
            "not a number in",
        ),
        (
            {
                "target": {
                    "kind": "box",
                    "text": None,
                    "regions": [{"coords": [0, 0, 1, 1], "image": 5, "label": None}],
                }
            },
            "target points into image 5, the sample has 2",
        ),
    ],
)
def test_a_row_that_means_nothing_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(to_row(samples()[0]) | change))
    with pytest.raises(BrokenRow, match=reason):
        list(read_samples(path))


def test_parquet_that_is_none_and_with_other_columns(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(BrokenRow, match=r"broken\.parquet:1: not a readable Parquet file"):
        list(read_samples(broken))
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"question": ["?"]}), other)
    with pytest.raises(BrokenRow, match=r"other\.parquet:1: column 'schema' is missing"):
        list(read_samples(other))


def test_files_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_samples(tmp_path / "missing.jsonl")
    with pytest.raises(UsageError, match=r"give \.jsonl or \.parquet"):
        read_samples(tmp_path / "train.csv")
    with pytest.raises(UsageError, match=r"give \.jsonl or \.parquet"):
        write_samples(tmp_path / "train", samples())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 3), "red").save(folder / "images" / "a.png")
    return folder


def test_an_image_is_rgb(root: Path) -> None:
    picture = open_image(root, IMAGES[0])
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (4, 3), (255, 0, 0))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(root: Path, mode: str) -> None:
    name = "images/x.tiff" if mode == "CMYK" else "images/x.png"
    Image.new(mode, (4, 3)).save(root / name)
    assert open_image(root, ImageRef(name, 4, 3)).mode == "RGB"


RAMP = np.array([[0.0, 0.25, 0.5, 0.75, 1.0]])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grey16.png", (RAMP * 65535).astype(np.uint16)),
        ("grey16.tiff", (RAMP * 65535).astype(np.uint16)),
        ("grey32.tiff", (RAMP * (2**31 - 1)).astype(np.int32)),
        ("grey32_of_16.tiff", (RAMP * 65535).astype(np.int32)),
        ("grey32_of_8.tiff", (RAMP * 255).astype(np.int32)),
        ("unit.tiff", RAMP.astype(np.float32)),
        ("bytes.tiff", (RAMP * 255).astype(np.float32)),
        ("negative.tiff", (RAMP * 8 - 5).astype(np.float32)),
    ],
)
def test_deep_pixels_are_scaled_to_8_bits(root: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(root / name)
    picture = np.asarray(open_image(root, ImageRef(name, 5, 1)))
    assert np.abs(picture[0] - 255 * RAMP.T).max() <= 1


def test_unsigned_32_bits_are_no_negative_numbers(root: Path) -> None:
    values = (RAMP * (2**32 - 1)).astype(np.uint32)
    Image.fromarray(values.view(np.int32)).save(root / "u.tiff")
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))  # SampleFormat
    data = (root / "u.tiff").read_bytes()
    assert signed in data
    (root / "u.tiff").write_bytes(data.replace(signed, unsigned))
    assert np.asarray(open_image(root, ImageRef("u.tiff", 5, 1)))[0, :, 0].tolist() == [0, 64, 128, 191, 255]


def test_other_formats_are_called_by_their_name(root: Path) -> None:
    Image.new("RGB", (4, 3)).save(root / "x.avif")
    with pytest.raises(BrokenRow, match=r"x\.avif: not a readable image: it is AVIF; convert it to PNG"):
        open_image(root, ImageRef("x.avif", 4, 3))


def test_transparency_lies_over_white(root: Path) -> None:
    Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(root / "images" / "x.png")
    assert open_image(root, ImageRef("images/x.png", 4, 3)).getpixel((0, 0)) == (255, 255, 255)


def test_orientation_is_applied_and_the_size_is_the_upright_one(root: Path) -> None:
    picture = Image.new("RGB", (4, 3))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(root / "images" / "x.jpg", exif=exif)
    assert open_image(root, ImageRef("images/x.jpg", 3, 4)).size == (3, 4)
    with pytest.raises(BrokenRow, match="image is 3x4, the row says 4x3"):
        open_image(root, ImageRef("images/x.jpg", 4, 3))


def test_images_that_are_not_there_or_not_images(root: Path) -> None:
    with pytest.raises(BrokenRow, match=r"images/b\.png: no such image"):
        open_image(root, IMAGES[1])
    (root / "images" / "b.png").write_bytes(b"hello")
    with pytest.raises(BrokenRow, match="not a readable image"):
        open_image(root, IMAGES[1])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp"])
def test_a_truncated_image_is_broken(root: Path, suffix: str) -> None:
    path = root / "images" / f"x{suffix}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenRow, match="not a readable image"):
        open_image(root, ImageRef(f"images/x{suffix}", 64, 64))


def test_formats_that_start_programs_are_not_opened(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "page.eps")
    with pytest.raises(BrokenRow, match="not a readable image"):
        open_image(root, ImageRef("page.eps", 8, 8))


def test_a_path_that_leaves_the_folder_through_a_link(root: Path) -> None:
    Image.new("RGB", (4, 3)).save(root.parent / "secret.png")
    (root / "images" / "b.png").symlink_to(root.parent / "secret.png")
    with pytest.raises(BrokenRow, match="outside the data set's folder"):
        open_image(root, ImageRef("images/b.png", 4, 3))


@pytest.mark.parametrize("name", ["loop", "loop/a.png", "images/a.png/b", "x" * 5000, "x/" * 3000, "pipe", "images"])
def test_paths_that_lead_nowhere_are_one_line(root: Path, name: str) -> None:
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    with pytest.raises(BrokenRow, match=r"no such image|is no path of a file"):
        open_image(root, ImageRef(name, 4, 3))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(root: Path) -> None:
    Image.new("1", (9_000, 9_000)).save(root / "images" / "bomb.png")
    with pytest.raises(BrokenRow, match="more than 80000000"):
        open_image(root, ImageRef("images/bomb.png", 9_000, 9_000))
    with pytest.raises(BrokenRow, match="4x3 pixels, more than 10"):
        open_image(root, IMAGES[0], max_pixels=10)


def test_rows_with_the_old_name_of_the_license_column_are_read():
    sample = samples()[0]
    row = to_row(sample)
    assert from_row({**{key: row[key] for key in row if key != "license"}, "licence": row["license"]}) == sample
