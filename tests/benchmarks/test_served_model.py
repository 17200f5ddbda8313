"""The embedded model behind `transformers serve`: the same questions get the same verdicts as on this machine.

The server needs the packages of `pip install 'transformers[serving]'`; without them the test is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from transformers.utils import is_torchvision_available

from benchmarks.harness.cli import main
from data_prep.__main__ import main as prepare

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]


# Without torchvision the stock processor of the family cannot be made: the server gets ours, for images only
SERVE = """
from transformers import AutoProcessor, Qwen3VLConfig
from transformers.cli.transformers import main
from transformers.utils import is_torchvision_available
from models.processors import IMAGE_ONLY_PROCESSORS

if not is_torchvision_available():
    AutoProcessor.register(Qwen3VLConfig, IMAGE_ONLY_PROCESSORS["qwen3_vl"], exist_ok=True)
main()
"""


@pytest.fixture
def model(tmp_path):
    folder = Path(shutil.copytree(ROOT / "assets" / "fovea-tiny", tmp_path / "model"))
    if not is_torchvision_available():
        for name in ("processor_config.json", "tokenizer_config.json"):
            content = json.loads((folder / name).read_text())
            content.pop("processor_class", None)
            (folder / name).write_text(json.dumps(content))
    return str(folder)


@pytest.fixture
def server(model, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", model, "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                requests.get(f"{url}/health", timeout=2)
                break
            except requests.ConnectionError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}")
def test_a_served_model_is_judged_as_the_model_itself(server, model, tmp_path):
    data = tmp_path / "screens"
    counts = ["--train-screens", "1", "--val-screens", "1", "--test-screens", "6"]
    prepare(["screens", "--out", str(data), "--size", "96", "--difficulty", "2", *counts])
    rows = {}
    for name, flags in {"here": ["--device", "cpu"], "served": ["--endpoint", server]}.items():
        where = ["--data", str(data), "--out", str(tmp_path / name)]
        main(["--model", model, "--max-new-tokens", "64", *where, *flags])
        rows[name] = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
    said = [
        [(r["id"], r["correct"], r["strict"], r["prediction"]["thought"], r["status"]) for r in rows[n]] for n in rows
    ]
    assert said[0] == said[1]
    assert all(r["prediction"]["thought"] for r in rows["served"])
