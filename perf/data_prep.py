"""How fast data sources convert, and how their memory grows.

    python perf/data_prep.py                 # about four minutes, 1.5 GB of temporary files
    python perf/data_prep.py --quick         # 10,000 and 100,000 rows only

Measures `python -m data_prep`, one process and one thread: the seconds of a core that it takes, the seconds it takes
on a core of its own (the promise: the core's seconds, and those it waits for the disk; Linux counts how long it stood
in line for a core, which is left out), the clock's seconds with that, and the peak of its memory. RefCOCO-like is
the real shape: 142,209 expressions for 50,000 objects in 19,994 images, a pickle and a COCO file; images are looked
at (header only) and linked. From a film of ten minutes (640x360, H.264), 64 frames are decoded and written, and the
peak of that is compared with a film of one minute. Charts and scenes are drawn. Exits 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS = 30.0  # for the 142,209 references
MAX_MEGABYTES = 1000.0
MAX_GROWTH = 1.25  # peak at a million rows against ten thousand, at ten minutes against one
CLIP_SECONDS, CLIP_MEGABYTES = 4.0, 400.0  # 64 frames of ten minutes
DRAWN = {("charts", "charts"): (8.0, 100), ("spatial", "scenes"): (100.0, 1000)}  # a second and core; so many drawn


@dataclass
class Measurement:
    name: str
    rows: int
    seconds: float  # by the clock
    cpu: float  # of one core: user and system
    alone: float  # by the clock, less what it stood in line for a core
    megabytes: float

    def line(self) -> str:
        times = f"{self.cpu:8.1f} {self.alone:8.1f} {self.seconds:8.1f}"
        numbers = f"{times} {self.rows / self.cpu:>10,.0f} {self.megabytes:8.0f}"
        return f"{self.name:28s} {self.rows:>9,d} {numbers}"


def measure(name: str, rows: int, arguments: list[str], out: Path) -> Measurement:
    """Run `python -m data_prep` and have the kernel count its time and memory."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "data_prep", *arguments, "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    peak, pid, queued = 0, 0, 0.0
    while not pid:
        peak = max(peak, peak_kilobytes(process.pid))
        queued = max(queued, seconds_in_line(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{name}: python -m data_prep {' '.join(arguments)} failed")
    made = json.loads((out / "manifest.json").read_text())
    if sum(made["rows"].values()) != rows:
        sys.exit(f"{name}: {made['rows']} rows instead of {rows}")
    shutil.rmtree(out)
    cpu = usage.ru_utime + usage.ru_stime
    return Measurement(name, rows, seconds, cpu, max(cpu, seconds - queued), peak / 1024)


def peak_kilobytes(pid: int) -> int:
    """Most memory the process had so far (the kernel's ru_maxrss would count its parent's, too)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return 0


def seconds_in_line(pid: int) -> float:
    """How long the process was ready to run while others had the core; 0 where the kernel does not count it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def jpegs(folder: Path, names: list[str]) -> None:
    """Files of one 640x480 photograph-like JPEG, each its own."""
    folder.mkdir(parents=True)
    data = io.BytesIO()
    Image.effect_noise((640, 480), 40).convert("RGB").save(data, "JPEG", quality=20)
    for name in names:
        (folder / name).write_bytes(data.getvalue()[: 24 << 10] + b"\xff\xd9")


def refcoco(root: Path, images: int = 19_994, objects: int = 50_000, sentences: int = 142_209) -> None:
    """Write files of refer's exact shape."""
    dice = random.Random(0)
    names = [f"COCO_train2014_{n:012d}.jpg" for n in range(images)]
    jpegs(root / "images/mscoco/images/train2014", names)
    annotations, refs, used = [], [], 0
    for n in range(objects):
        image = n * images // objects
        x, y = dice.uniform(0, 500), dice.uniform(0, 400)
        box = [round(v, 2) for v in (x, y, dice.uniform(5, 639 - x), dice.uniform(5, 479 - y))]
        outline = [[round(dice.uniform(0, 640), 2) for _ in range(40)]]
        annotations.append({"id": n, "image_id": image, "category_id": 1, "bbox": box, "segmentation": outline})
        count = sentences * (n + 1) // objects - used
        texts = [f"the {dice.choice(['left', 'red', 'tall'])} one number {n} of {k}" for k in range(count)]
        entries = [{"sent_id": used + k, "sent": t, "raw": t, "tokens": t.split()} for k, t in enumerate(texts)]
        used += count
        refs.append({"ref_id": n, "ann_id": n, "image_id": image, "split": "train", "sentences": entries,
                     "file_name": names[image], "category_id": 1})  # fmt: skip
    records = [{"id": n, "file_name": name, "width": 640, "height": 480} for n, name in enumerate(names)]
    (root / "refcoco").mkdir()
    with (root / "refcoco" / "refs(unc).p").open("wb") as stream:
        pickle.dump(refs, stream, protocol=0)
    with (root / "refcoco" / "instances.json").open("w") as stream:
        json.dump({"images": records, "annotations": annotations, "categories": []}, stream)


def lines(root: Path, rows: int, images: int = 2_000) -> Path:
    """JSON lines in Visual-CoT's shape."""
    names = [f"{n}.jpg" for n in range(images)]
    if not (root / "train2014").exists():
        jpegs(root / "train2014", names)
    path = root / f"{rows}.jsonl"
    with path.open("w") as stream:
        for n in range(rows):
            row = {"img_path": names[n * images // rows], "expression": f"the thing number {n}", "width": 640,
                   "bbox": [n % 300, n % 200, 400.5, 300.25], "height": 480}  # fmt: skip
            stream.write(json.dumps(row) + "\n")
    return path


def references(root: Path) -> list[str]:
    """Convert RefCOCO-like files; what was promised and not kept."""
    refcoco(root / "refer")
    run = measure("refcoco (pickle, linked)", 142_209, ["refcoco", "--root", str(root / "refer")], root / "out")
    print(run.line(), flush=True)
    shutil.rmtree(root / "refer")
    broken = []
    if run.alone > MAX_SECONDS:
        broken.append(f"{run.rows:,d} references took {run.alone:.1f} s on one core, promised {MAX_SECONDS:.0f}")
    if run.megabytes > MAX_MEGABYTES:
        broken.append(f"RefCOCO took {run.megabytes:.0f} MB")
    return broken


def growth(root: Path, sizes: tuple[int, ...]) -> list[str]:
    """Convert more and more lines; what was promised and not kept."""
    peaks = {}
    for rows in sizes:
        path = lines(root, rows)
        arguments = ["refcoco_json", "--root", str(root), "--annotations", path.name]
        run = measure("refcoco_json (JSON lines)", rows, arguments, root.with_name(root.name + ".made"))
        print(run.line(), flush=True)
        peaks[rows] = run.megabytes
        path.unlink()
    factor = peaks[max(peaks)] / peaks[min(peaks)]
    print(f"peak memory grows {factor:.2f}-fold from {min(peaks):,d} to {max(peaks):,d} rows")
    if factor > MAX_GROWTH or max(peaks.values()) > MAX_MEGABYTES:
        return [f"memory: {factor:.2f}-fold, {max(peaks.values()):.0f} MB"]
    return []


def film(path: Path, minutes: int) -> None:
    """A disc that moves over a gradient, 25 frames a second, as x264 encodes it by default but for its speed."""
    import av  # noqa: PLC0415 - an extra
    import numpy as np  # noqa: PLC0415

    x, y = np.meshgrid(np.arange(640), np.arange(360))
    ground = ((x + 2 * y) % 200).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for n in range(minutes * 60 * 25):
            picture = ground.copy()
            left, top = 3 * n % 580, 2 * n % 300
            picture[top : top + 60, left : left + 60] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")):
                container.mux(packet)
        container.mux(stream.encode())


def clips(root: Path) -> list[str]:
    """Choose 64 frames from films of a minute and of ten; what was promised and not kept."""
    runs = {}
    for minutes in (1, 10):
        folder = root / f"film{minutes}"
        (folder / "videos").mkdir(parents=True)
        film(folder / "videos" / "a.mp4", minutes)
        moment = {"duration": 60 * minutes, "timestamps": [[5, 9]], "sentences": ["the disc is at the top"]}
        (folder / "train.json").write_text(json.dumps({"a": moment}))
        arguments = ["activitynet", "--root", str(folder), "--videos", "videos", "--max-frames", "64"]
        runs[minutes] = run = measure(f"64 frames of {minutes} min, 360p", 1, arguments, root / "clips")
        print(run.line(), flush=True)
    broken = []
    if runs[10].alone > CLIP_SECONDS or runs[10].megabytes > CLIP_MEGABYTES:
        broken.append(f"64 frames of ten minutes: {runs[10].alone:.1f} s, {runs[10].megabytes:.0f} MB")
    if runs[10].megabytes > MAX_GROWTH * runs[1].megabytes:
        broken.append(f"frames: {runs[1].megabytes:.0f} MB of a minute, {runs[10].megabytes:.0f} MB of ten")
    return broken


def drawn(root: Path) -> list[str]:
    """Draw twenty and many more; the difference is what drawing takes, without the start."""
    broken = []
    for (name, noun), (promised, more) in DRAWN.items():
        runs = []
        for count in (20, 20 + more):
            counts = [f"--{split}-{noun}={count if split == 'train' else 0}" for split in ("train", "val", "test")]
            runs.append(measure(f"{name} (drawn)", count, [name, *counts], root / name))
            print(runs[-1].line(), flush=True)
        rate = more / (runs[1].cpu - runs[0].cpu)
        print(f"{rate:.1f} {noun} a second and core")
        if rate < promised:
            broken.append(f"{rate:.1f} {noun} a second and core, promised {promised:g}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 100,000 rows only")
    parser.add_argument("--only", choices=("refcoco", "growth", "clips", "drawn"), help="one of the measurements")
    args = parser.parse_args()
    broken: list[str] = []
    print(
        f"{'source':28s} {'rows':>9s} {'core s':>8s} {'alone s':>8s} {'clock s':>8s} {'rows/s':>10s} {'peak MB':>8s}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.only in (None, "refcoco"):
            broken += references(Path(folder))
        if args.only in (None, "clips"):
            broken += clips(Path(folder))
        if args.only in (None, "drawn"):
            broken += drawn(Path(folder))
        if args.only in (None, "growth"):
            broken += growth(Path(folder), (10_000, 100_000) if args.quick else (10_000, 100_000, 1_000_000))
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
