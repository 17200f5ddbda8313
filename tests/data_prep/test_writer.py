"""The conversion runner: same bytes whatever happens, every row accounted for."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

from data_prep import Item, Reject, Source
from data_prep.__main__ import build_parser
from data_prep.pipeline.writer import REJECTS, run
from grounding.errors import FoveaError, UsageError
from grounding.sample import ImageRef, Sample, from_row
from grounding.targets import Box

ROOT = Path(__file__).resolve().parents[2]


def png(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (4, 3), shade % 256).save(data, "PNG")
    return data.getvalue()


def sample(n: int, image: str = "images/0.png") -> Sample:
    return Sample(f"row-{n}", (ImageRef(image, 4, 3),), f"thing {n}", Box(0, 0, 0.5, 0.5), "toy", "CC0-1.0")


def toy(count: int, every_reject: int = 0, delay: float = 0.0, ids: int = 0) -> Source:
    def convert(args: Namespace):
        for n in range(count):
            time.sleep(delay)
            if every_reject and n % every_reject == 0:
                yield Reject(f"toy:{n}", "empty box", f"row {n}")
                continue
            name = f"images/{n // 3}.png"
            yield Item(sample(n % ids if ids else n, name), {name: png(n // 3)}, "test" if n % 5 == 0 else "train")

    return Source("toy", convert, "nothing", "CC0-1.0", needs_root=False)


def arguments(out: Path, spec: Source, *more: str) -> Namespace:
    return build_parser(spec).parse_args(["--out", str(out), *more])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_rejects_images_and_manifest_agree(tmp_path):
    spec = toy(50, every_reject=10)
    manifest = run(spec, arguments(tmp_path / "o", spec))
    # of 0..49 the multiples of 10 are rejected, of the other 45 the 5 odd multiples of 5 are test
    assert manifest["rows"] == {"train": 40, "test": 5}
    assert manifest["rejects"] == {"empty box": 5} and manifest["rejected"] == 5
    assert manifest["targets"] == {"box": 45}
    assert manifest["images"] == 17 == len(list((tmp_path / "o" / "images").iterdir()))
    rows = lines(tmp_path / "o" / "train.jsonl")
    assert [from_row(row).id for row in rows][:3] == ["row-1", "row-2", "row-3"]
    assert lines(tmp_path / "o" / REJECTS)[1] == {"where": "toy:10", "reason": "empty box", "detail": "row 10"}
    assert (tmp_path / "o" / "images" / "16.png").read_bytes() == png(16)
    assert not (tmp_path / "o" / ".convert").exists()


def test_rerun_of_a_finished_run_changes_nothing(tmp_path):
    spec = toy(20)
    run(spec, arguments(tmp_path / "o", spec))
    before = tree(tmp_path / "o")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "o").rglob("*")}
    run(spec, arguments(tmp_path / "o", spec))
    assert tree(tmp_path / "o") == before
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "o").rglob("*")} == times


def test_another_data_set_in_the_way(tmp_path):
    spec = toy(20)
    run(spec, arguments(tmp_path / "o", spec))
    with pytest.raises(UsageError, match="--overwrite"):
        run(spec, arguments(tmp_path / "o", spec, "--limit", "3"))
    manifest = run(spec, arguments(tmp_path / "o", spec, "--limit", "3", "--overwrite"))
    assert manifest["rows"] == {"train": 2, "test": 1} and manifest["images"] == 1


def test_limit_counts_samples_not_rejects(tmp_path):
    spec = toy(100, every_reject=2)
    manifest = run(spec, arguments(tmp_path / "o", spec, "--limit", "7", "--max-rejects", "1"))
    assert sum(manifest["rows"].values()) == 7


def test_too_many_rejects_stop_with_a_summary(tmp_path):
    spec = toy(10, every_reject=2)
    with pytest.raises(FoveaError, match=r"5 of 10 rows rejected.*5 empty box; the first: .*rejects\.jsonl$"):
        run(spec, arguments(tmp_path / "o", spec, "--max-rejects", "0.4"))
    assert not (tmp_path / "o" / "manifest.json").exists()
    assert run(spec, arguments(tmp_path / "o", spec, "--max-rejects", "0.5"))["rejected"] == 5


def test_nothing_converted_is_an_error(tmp_path):
    spec = toy(4, every_reject=1)
    with pytest.raises(FoveaError, match=r"nothing was converted.*4 empty box; the first: .*rejects\.jsonl$"):
        run(spec, arguments(tmp_path / "o", spec, "--max-rejects", "1"))


def test_second_row_of_an_id_is_rejected(tmp_path):
    spec = toy(30, ids=20)
    manifest = run(spec, arguments(tmp_path / "o", spec))
    assert manifest["rejects"] == {"duplicate id": 10}
    ids = [row["id"] for split in ("train", "test") for row in lines(tmp_path / "o" / f"{split}.jsonl")]
    assert sorted(ids) == sorted(f"row-{n}" for n in range(20))
    assert manifest["targets"] == {"box": 20} and sum(manifest["rows"].values()) == 20


def test_validation_split_is_by_image_and_seed(tmp_path):
    spec = toy(300)
    manifest = run(spec, arguments(tmp_path / "a", spec, "--val", "0.3"))
    other = run(spec, arguments(tmp_path / "b", spec, "--val", "0.3", "--seed", "1"))
    train, val = ({r["images"][0]["path"] for r in lines(tmp_path / "a" / f"{s}.jsonl")} for s in ("train", "val"))
    assert not train & val and 10 < len(val) < 60
    assert manifest["files"]["val.jsonl"] != other["files"]["val.jsonl"]


def test_existing_images_are_linked_or_copied_never_rewritten(tmp_path):
    original = tmp_path / "cat.png"
    original.write_bytes(png(7))

    def convert(args):
        yield Item(sample(1, "images/cat.png"), {"images/cat.png": original})

    spec = Source("one", convert, "", "CC0-1.0", needs_root=False)
    run(spec, arguments(tmp_path / "link", spec))
    run(spec, arguments(tmp_path / "copy", spec, "--images", "copy"))
    run(spec, arguments(tmp_path / "none", spec, "--images", "none"))
    assert (tmp_path / "link/images/cat.png").stat().st_ino == original.stat().st_ino
    assert (tmp_path / "copy/images/cat.png").stat().st_ino != original.stat().st_ino
    assert (tmp_path / "copy/images/cat.png").read_bytes() == original.read_bytes()
    assert not (tmp_path / "none/images").exists()


def test_a_source_cannot_write_outside(tmp_path):
    def convert(args):
        yield Item(sample(1), {"../evil.png": b"x"})

    spec = Source("evil", convert, "", "CC0-1.0", needs_root=False)
    with pytest.raises(ValueError, match="leaves the root"):
        run(spec, arguments(tmp_path / "o", spec))
    assert not (tmp_path / "evil.png").exists()


KILLED = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_writer import toy, arguments
from data_prep.pipeline import writer
from pathlib import Path
writer.COMMIT_ITEMS, writer.COMMIT_SECONDS = 7, 0.02
spec = toy(400, every_reject=11, delay=0.0005, ids=390)
writer.run(spec, arguments(Path(sys.argv[1]), spec, "--val", "0.2"))
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_bytes_are_the_same(tmp_path):
    code = KILLED.format(root=str(ROOT), tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    chance = random.Random(5)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen([*command, str(tmp_path / "torn")])
        deadline = time.monotonic() + 30
        while not (tmp_path / "torn").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.15))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    subprocess.run([*command, str(tmp_path / "torn")], check=True)
    assert kills >= 2
    assert tree(tmp_path / "torn") == tree(tmp_path / "whole")


def test_two_runs_into_one_folder(tmp_path):
    def convert(args):
        inner = toy(3)
        run(inner, arguments(tmp_path / "o", inner))
        yield sample(1)

    spec = Source("outer", convert, "", "CC0-1.0", needs_root=False)
    with pytest.raises(UsageError, match="another run"):
        run(spec, arguments(tmp_path / "o", spec))
