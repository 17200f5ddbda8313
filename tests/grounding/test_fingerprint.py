"""Fingerprints: equal for equal contents, and nothing that decides an answer is left out."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from grounding import fingerprint
from grounding.errors import FoveaError, UsageError
from grounding.fingerprint import data_fingerprint, differences, digest, file_digests, model_fingerprint

SHIPPED = Path("assets/fovea-tiny")
FILES = {
    "config.json": ["config"],
    "generation_config.json": ["generation_config"],
    "chat_template.jinja": ["chat_template"],
    "tokenizer.json": ["tokenizer"],
    "special_tokens_map.json": ["tokenizer"],
    "merges.txt": ["tokenizer"],
    "processor_config.json": ["processor"],
    "video_preprocessor_config.json": ["processor"],
    "adapter_model.safetensors": ["adapter"],
    "adapter_config.json": ["adapter"],
    "model.safetensors.index.json": ["weights"],
    "modeling_custom.py": ["code"],
    "fovea.json": ["config"],
    "optimizer.pt": [],
    "scheduler.pt": [],
    "rng_state_0.pth": [],
    "training_args.bin": [],
    "trainer_state.json": [],
    "README.md": [],
}


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for shard in (1, 2):
        tensors = {f"layer{n}": rng.normal(size=(64, 64)).astype(np.float32) for n in range(4)}
        save_file(tensors, folder / f"model-{shard:05}-of-00002.safetensors")
    for name in FILES:
        (folder / name).write_text("{}")
    return folder


def test_a_copied_moved_or_touched_folder_is_the_same_model(model, tmp_path):
    before = model_fingerprint(model)
    shutil.copytree(model, tmp_path / "copy")
    os.utime(model / "config.json", (1, 1))
    assert model_fingerprint(tmp_path / "copy") == before == model_fingerprint(model)
    (tmp_path / "links").mkdir()
    for file in model.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    assert model_fingerprint(tmp_path / "links") == before


@pytest.mark.parametrize("keep_times", [True, False])
def test_one_changed_bit_of_one_tensor_is_seen(model, keep_times):
    file = model / "model-00002-of-00002.safetensors"
    os.utime(file, (10**9, 10**9))
    before = model_fingerprint(model)
    stat = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-5, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-5, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    if keep_times:  # as `cp -p` and rsync do
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert differences(before, model_fingerprint(model)) == ["weights"]


@pytest.mark.parametrize("name", FILES)
def test_each_file_changes_its_own_part_and_state_of_training_changes_none(model, name):
    before = model_fingerprint(model)
    (model / name).write_text('{"changed": true}')
    assert differences(before, model_fingerprint(model)) == FILES[name]
    (model / name).unlink()
    assert differences(before, model_fingerprint(model)) == FILES[name]


def test_every_file_of_the_shipped_model_that_is_loaded_has_a_part():
    assert set(model_fingerprint(SHIPPED)) == {
        "weights", "config", "tokenizer", "processor", "chat_template", "generation_config",
    }  # fmt: skip


def test_an_adapter_without_weights_depends_on_the_model_beneath_it(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{model}"}}')
    before = model_fingerprint(adapter)
    (model / "model-00001-of-00002.safetensors").write_bytes(b"other")
    assert differences(before, model_fingerprint(adapter)) == ["base.weights"]


def test_a_hub_name_is_known_by_the_commit_in_the_cache(monkeypatch, tmp_path):
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("c0ffee" * 7)[:40]
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_fingerprint("org/name") == {"name": "org/name", "commit": snapshot.name}


@pytest.mark.parametrize("name", ["org/never-downloaded", "runs/x/final", "/no/such", "a//b", "~/x/y/z"])
def test_a_model_that_is_nowhere_is_refused_by_name(name):
    with pytest.raises(UsageError, match=f"model {name}: no such folder"):
        model_fingerprint(name)


def test_large_files_are_hashed_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprint, "_CHUNK", 8)
    file = tmp_path / "x"
    seen = set()
    for position in range(20):
        content = bytearray(20)
        content[position] = 1
        file.write_bytes(content)
        seen.update(file_digests([file]))
    for length in (0, 7, 8, 9, 16, 17):
        file.write_bytes(bytes(length))
        seen.update(file_digests([file]))
    assert len(seen) == 26


def test_a_file_that_settled_is_read_once(monkeypatch, tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    monkeypatch.setattr(fingerprint, "_SETTLED", -(10**12))
    first = file_digests([file])
    monkeypatch.setattr(fingerprint, "_piece", lambda _: pytest.fail("read again"))
    assert file_digests([file]) == first


def test_images_are_covered_by_content_and_large_sets_by_size(monkeypatch, tmp_path):
    rows = tmp_path / "train.jsonl"
    rows.write_text("{}\n")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(struct.pack("4s", name.encode()))
    before = data_fingerprint([rows], ["a.png", "b.png"], tmp_path)
    assert set(before) == {"rows", "images"}
    assert data_fingerprint([rows], ["b.png", "a.png", "a.png"], tmp_path) == before
    (tmp_path / "b.png").write_bytes(b"bbbb")
    after = data_fingerprint([rows], ["a.png", "b.png"], tmp_path)
    assert differences(before, after) == ["images"]
    rows.write_text("{}\n\n")
    assert differences(after, data_fingerprint([rows], ["a.png", "b.png"], tmp_path)) == ["rows"]
    monkeypatch.setattr(fingerprint, "CONTENT_LIMIT", 7)
    large = data_fingerprint([rows], ["a.png", "b.png"], tmp_path)
    assert set(large) == {"rows", "image_sizes"}
    (tmp_path / "b.png").write_bytes(b"bbbbb")
    assert differences(large, data_fingerprint([rows], ["a.png", "b.png"], tmp_path)) == ["image_sizes"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FoveaError, match=r"gone.png: cannot be read: No such file"):
        data_fingerprint([], ["gone.png"], tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": None}, {}, []),
        ({}, {"a": 0}, ["a"]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"s": [{"lr": 1, "x": 2}, 3]}, {"s": [{"lr": 2, "x": 2}, 3]}, ["s.0.lr"]),
        ({"s": [1]}, {"s": [1, 2]}, ["s"]),
        ({"s": (1, 2)}, {"s": [1, 2]}, []),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
    ],
)
def test_differences_names_the_keys(old, new, keys):
    assert differences(old, new) == keys


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
