"""Bad input is a rejected row with its reason, never a crash, never something executed; round trips are exact."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import SOURCES
from data_prep.pipeline.conversion import Rejected, box_from_xywh, box_from_xyxy, instruction, point_from_xy
from data_prep.pipeline.images import ImageFolder, from_bytes, image_size
from data_prep.pipeline.pickles import load_plain
from data_prep.pipeline.readers import read_json_array, read_json_object, read_jsonl, read_parquet
from data_prep.pipeline.writer import run
from grounding.errors import FoveaError, UsageError
from tests.data_prep.helpers_data import convert, parse, picture, reasons, write_jsonl, write_picture


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_runs_nothing(tmp_path, protocol):
    marker = tmp_path / "ran"

    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([{"ref_id": 1}, Touch()], protocol=protocol))
    with pytest.raises(UsageError, match="plain data"):
        load_plain(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"Pthing\n.",
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        b"\x80\x02]q\x00(",
        b"",
        b"\xff\xff",
    ],
)
def test_other_pickles_are_refused(tmp_path, opcodes):
    path = tmp_path / "x.p"
    path.write_bytes(opcodes)
    with pytest.raises(UsageError):
        load_plain(path)


def test_plain_pickle_of_python_2(tmp_path):
    path = tmp_path / "x.p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nVle chat \\u00e9\np3\nsS'ids'\np4\n(lp5\nL7L\nasa.")
    assert load_plain(path) == [{"sent": "le chat é", "ids": [7]}]


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of a few bytes that claims width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bomb(50_000, 50_000), "image too large"),
        (bomb(9_000, 9_000), "image too large"),
        (b"", "bad image"),
        (b"GIF89a", "bad image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "bad image"),
        (picture(300, 300, "JPEG")[:-300], "truncated image"),
        (picture(300, 300, "PNG")[:-40], "truncated image"),
    ],
)
def test_bad_images_are_named(tmp_path, data, reason):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Rejected) as error:
        ImageFolder(tmp_path)("a.png")
    assert error.value.reason == reason
    with pytest.raises(Rejected):
        from_bytes("a", data)


def test_a_format_that_is_not_read_is_called_by_its_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\0\0\0\x20ftypavif\0\0\0\0")
    with pytest.raises(Rejected, match=r"a\.png: it is AVIF; convert it to PNG"):
        ImageFolder(tmp_path)("a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Rejected, match="not a regular file"):
        ImageFolder(tmp_path)("pipe.png")


def test_stated_sizes_are_compared_as_numbers(tmp_path):
    write_picture(tmp_path / "in" / "a.png", 30, 20)
    data = picture(30, 20)
    for width, height in ((30, 20), ("30", "20"), (30.0, 20), (None, None)):
        assert ImageFolder(tmp_path)("in/a.png", width, height)[0].width == 30
        assert from_bytes("a", data, width, height)[0].width == 30
    for width, height, reason in (
        (60, 40, "image size differs"),
        ("wide", 20, "not a number"),
        (0, 0, "not a number"),
    ):
        for look in (
            lambda *size: ImageFolder(tmp_path)("in/a.png", *size),
            lambda *size: from_bytes("a", data, *size),
        ):
            with pytest.raises(Rejected) as error:
                look(width, height)
            assert error.value.reason == reason


def test_separators_of_windows_are_read(tmp_path):
    write_picture(tmp_path / "images" / "a.png", 30, 20)
    assert ImageFolder(tmp_path)("images\\a.png")[0].path == "images/images/a.png"
    with pytest.raises(Rejected, match="path leaves the root"):
        ImageFolder(tmp_path)("C:\\images\\a.png")


def test_text_that_is_not_utf_8_is_rejected_not_changed(tmp_path):
    path = tmp_path / "x.p"
    path.write_bytes(b"(lp0\nS'caf\\xe9'\np1\naS'caf\\xc3\\xa9'\np2\na.")
    latin, utf8 = load_plain(path)
    assert instruction(utf8) == "café"
    with pytest.raises(Rejected, match="not UTF-8"):
        instruction(latin)
    (tmp_path / "a.json").write_bytes(b'["caf\xe9", "caf\xc3\xa9"]')
    (_, latin), (_, utf8) = read_json_array(tmp_path / "a.json")
    assert instruction(utf8) == "café"
    with pytest.raises(Rejected, match="not UTF-8"):
        instruction(latin)


def test_trailing_bytes_do_not_make_an_image_bad():
    assert image_size(picture(30, 20, "JPEG") + b"\0" * 500) == (30, 20)


def test_orientation_is_applied_as_readers_do(tmp_path):
    from PIL import Image

    from grounding.io import open_image

    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    ref, _ = ImageFolder(tmp_path, prefix=".")("turned.jpg")
    assert (ref.width, ref.height) == (20, 30) == open_image(tmp_path, ref).size


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "a\0.png", "", "..\\a.png", 7, None])
def test_paths_that_leave_the_root(tmp_path, name):
    root = tmp_path / "root"
    write_picture(root / "x" / "b.png", 2, 2)
    write_picture(tmp_path / "a.png", 2, 2)
    with pytest.raises(Rejected):
        ImageFolder(root)(name)


def test_links_that_leave_the_root(tmp_path):
    write_picture(tmp_path / "outside" / "a.png", 2, 2)
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "file.png").symlink_to(tmp_path / "outside" / "a.png")
    (root / "folder").symlink_to(tmp_path / "outside")
    write_picture(root / "in" / "b.png", 2, 2)
    (root / "fine.png").symlink_to(root / "in" / "b.png")
    for name in ("file.png", "folder/a.png"):
        with pytest.raises(Rejected, match="leaves the root"):
            ImageFolder(root)(name)
    assert ImageFolder(root)("fine.png")[0].width == 2


def row(bbox, **more):
    return {"img_path": "a.jpg", "expression": "x", "bbox": bbox, "width": 100, "height": 50, **more}


def test_rows_are_rejected_with_their_reason(tmp_path):
    write_picture(tmp_path / "train2014/a.jpg", 100, 50)
    (tmp_path / "train2014/broken.jpg").write_bytes(picture(100, 50, "JPEG")[:-20])
    rows = [
        (row([0, 0, 101.5, 50]), None),
        (row([0, 0, 103, 50]), "box outside"),
        (row([-3, 0, 10, 50]), "box outside"),
        (row([10, 0, 5, 50]), "swapped corners"),
        (row([5, 0, 5, 50]), "empty box"),
        (row([0, 0, float("nan"), 50]), "not a number"),
        (row([0, 0, float("inf"), 50]), "not a number"),
        (row([0, 0, "1e999", 50]), "not a number"),
        (row([0, 0, True, 50]), "not a number"),
        (row([0, 0, None, 50]), "not a number"),
        (row([0, 0, 10]), "wrong format"),
        (row("0 0 10 10"), "wrong format"),
        (row(None), "wrong format"),
        (row([0, 0, 9, 9], expression=" \n"), "empty instruction"),
        (row([0, 0, 9, 9], expression=None), "wrong format"),
        (row([0, 0, 9, 9], img_path="missing.jpg"), "missing image"),
        (row([0, 0, 9, 9], img_path="broken.jpg"), "truncated image"),
        (row([0, 0, 9, 9], img_path="../a.jpg"), "path leaves the root"),
        (row([0, 0, 9, 9], width=50, height=100), "image size differs"),
        ({"img_path": "a.jpg", "expression": "x"}, "wrong format"),
        ([1, 2], "wrong format"),
        ("text", "wrong format"),
        (None, "wrong format"),
    ]
    path = write_jsonl(tmp_path / "r.jsonl", [content for content, _ in rows])
    with path.open("ab") as handle:
        handle.write(b'{"img_path": "a.jpg", "expr\n\xff\xfe\n')
    items, rejects = convert("refcoco_json", tmp_path, "--annotations", "r.jsonl")
    assert len(items) == 1 and items[0].sample.target.x2 == 1.0
    assert reasons(rejects) == [reason for _, reason in rows if reason] + ["not JSON", "not JSON"]
    assert rejects[0].where == "r.jsonl:2"


def test_the_run_goes_on_then_stops_above_the_threshold(tmp_path):
    root = tmp_path / "raw"
    write_picture(root / "train2014/a.jpg", 100, 50)
    write_jsonl(root / "r.jsonl", [row([0, 0, 9, 9])] * 8 + [row([0, 0, 999, 9])] * 2)
    spec = SOURCES.get("refcoco_json")
    flags = ("--annotations", "r.jsonl")
    with pytest.raises(FoveaError, match=r"2 of 10 rows rejected.*2 box outside"):
        run(spec, parse("refcoco_json", root, tmp_path / "o", *flags))
    manifest = run(spec, parse("refcoco_json", root, tmp_path / "o", *flags, "--max-rejects", "0.2"))
    assert manifest["rows"] == {"train": 8} and manifest["rejects"] == {"box outside": 2}
    assert manifest["inputs"]["r.jsonl"]["bytes"] == (root / "r.jsonl").stat().st_size


def test_truncated_files_give_what_came_before(tmp_path):
    text = json.dumps([{"n": n} for n in range(3)])
    (tmp_path / "a.json").write_text(text[:-5])
    found = [value for _, value in read_json_array(tmp_path / "a.json")]
    assert found[:2] == [{"n": 0}, {"n": 1}] and found[2].reason == "not JSON" and len(found) == 3
    (tmp_path / "b.json").write_text('{"v": {"n": 0}, "w": {"n"')
    pairs = [value for _, value in read_json_object(tmp_path / "b.json")]
    assert pairs[0] == ("v", {"n": 0}) and pairs[1].reason == "not JSON"
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and then nothing")
    assert [value.reason for _, value in read_parquet(tmp_path / "c.parquet")] == ["damaged file"]
    (tmp_path / "d.jsonl").write_text('{"n": 0}\n\n{"n"')
    assert [getattr(v, "reason", v) for _, v in read_jsonl(tmp_path / "d.jsonl")] == [{"n": 0}, "not JSON"]


def test_deep_nesting_is_a_reject(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    assert [value.reason for _, value in read_json_array(tmp_path / "a.json")] == ["not JSON"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON, max_size=8), st.lists(JSON, max_size=3), st.sampled_from([None, 2]), st.integers(1, 9))
def test_streamed_json_equals_json(tmp_path_factory, rows, others, indent, chunk):
    from data_prep.pipeline import readers as files

    path = tmp_path_factory.mktemp("json") / "a.json"
    whole, files._CHUNK = files._CHUNK, chunk
    try:
        path.write_text(json.dumps(rows, indent=indent))
        assert [value for _, value in read_json_array(path)] == rows
        path.write_text(json.dumps({"info": others, "x": 1.5, "rows": rows, "after": {}}, indent=indent))
        assert [value for _, value in read_json_array(path, "rows")] == rows
        assert [value for _, value in read_json_array(path, "nothing")] == []
        entries = dict(value for _, value in read_json_object(path))
        assert entries == {"info": others, "x": 1.5, "rows": rows, "after": {}}
    finally:
        files._CHUNK = whole


SIDE = st.integers(1, 10_000)
SHARE = st.floats(0, 1)


@given(SIDE, SIDE, st.tuples(SHARE, SHARE, SHARE, SHARE))
def test_box_round_trip(width, height, shares):
    a, b, c, d = shares
    x1, x2, y1, y2 = *sorted((a * width, b * width)), *sorted((c * height, d * height))
    if x1 == x2 or y1 == y2:
        with pytest.raises(Rejected, match="empty box"):
            box_from_xyxy((x1, y1, x2, y2), width, height)
        return
    box = box_from_xyxy((x1, y1, x2, y2), width, height)
    back = (box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height)
    assert back == pytest.approx((x1, y1, x2, y2), abs=1e-9 * max(width, height))
    if x1 + (x2 - x1) > x1 and y1 + (y2 - y1) > y1:
        again = box_from_xywh((x1, y1, x2 - x1, y2 - y1), width, height)
        assert again.xyxy == pytest.approx(box.xyxy, abs=1e-12)


@given(SIDE, SIDE, SHARE, SHARE)
def test_point_round_trip(width, height, x, y):
    point = point_from_xy((x * width, y * height), width, height)
    assert (point.x * width, point.y * height) == pytest.approx(
        (x * width, y * height), abs=1e-9 * max(width, height)
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), min_size=1, max_size=5))
def test_conversion_round_trips_through_the_files(tmp_path_factory, shares):
    """Pixels in, data set on disk, pixels out."""
    from grounding.io import read_samples

    out, root = (tmp_path_factory.mktemp("round") / name for name in ("o", "raw"))
    write_picture(root / "train2014/a.jpg", 100, 50)
    boxes = []
    for a, b, c, d in shares:
        (x1, x2), (y1, y2) = sorted((a * 100, b * 100)), sorted((c * 50, d * 50))
        inside_one_pixel = max(x2, y2) <= 1  # such a box is taken for fractions of the sides, and rejected
        if x2 - x1 > 1e-6 and y2 - y1 > 1e-6 and not inside_one_pixel:
            boxes.append([x1, y1, x2, y2])
    if not boxes:
        return
    write_jsonl(root / "r.jsonl", [row(box) for box in boxes])
    args = parse("refcoco_json", root, out, "--annotations", "r.jsonl", "--format", "parquet")
    run(SOURCES.get("refcoco_json"), args)
    back = [
        [s.target.x1 * 100, s.target.y1 * 50, s.target.x2 * 100, s.target.y2 * 50]
        for s in read_samples(out / "train.parquet")
    ]
    assert back == [pytest.approx(box, abs=1e-9) for box in boxes]
