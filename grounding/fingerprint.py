"""Fingerprints: what a result depends on, as a few hashes and values; and random seeds derived from hashes.

A fingerprint is a plain dictionary of hashes and values, kept as JSON beside the result. It depends on the contents
of files only: a folder that was copied, moved or touched keeps its fingerprint, one changed tensor does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from math import isnan
from pathlib import Path
from typing import Any

from grounding.errors import FoveaError, UsageError

# The part of a model that a file of its folder belongs to: the first pattern that matches. None: changes nothing.
MODEL_PARTS: tuple[tuple[str, str | None], ...] = (
    ("optimizer.*", None),
    ("scheduler.*", None),
    ("scaler.*", None),
    ("rng_state*", None),
    ("training_args.*", None),
    ("train*.json", None),
    ("adapter_*", "adapter"),
    ("generation_config.json", "generation_config"),
    ("chat_template*", "chat_template"),
    ("additional_chat_templates/*", "chat_template"),
    ("*processor_config.json", "processor"),
    ("*preprocessor_config.json", "processor"),
    *((f"*{end}", "weights") for end in (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".index.json")),
    *((name, "tokenizer") for name in ("token*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens*")),
    ("*.model", "tokenizer"),
    ("*.tiktoken", "tokenizer"),
    ("*.py", "code"),
    ("*.json", "config"),
    ("*.jinja", "chat_template"),
)
CONTENT_LIMIT = 1 << 30  # bytes of images that are read; larger sets are known by the sizes of their files
_CHUNK = 1 << 24  # bytes a thread hashes at a time
_THREADS = min(16, os.cpu_count() or 1)
_SETTLED = 2 * 10**9  # ns; a file younger than this may change again without another time stamp
_known: dict[tuple[int, ...], str] = {}  # what the file system says of a file -> its hash


def model_fingerprint(path: str | os.PathLike[str], revision: str | None = None) -> dict[str, Any]:
    """What decides how a model answers.

    A folder gives a hash per part (weights, config, tokenizer, processor, chat_template, generation_config, adapter,
    code), each over the names and whole contents of its files; parts without files are left out. The model that an
    adapter is laid on is a part too (`base`). A name on the Hub gives the commit that is in the cache, so ask after
    something of it has been loaded. Takes about 1 s per GB and core the first time, and no time when asked again.

    Raises:
        UsageError: `path` is neither a folder nor in the cache.
        FoveaError: a file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {"name": str(path), "commit": _cached_commit(str(path), revision)}
    parts: dict[str, list[Path]] = {}
    for file in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")]):
        part = _part(file.relative_to(folder).as_posix())
        if part is not None and not file.is_dir():
            parts.setdefault(part, []).append(file)
    found: dict[str, Any] = {part: files_digest(files, folder) for part, files in sorted(parts.items())}
    base = _base_of(folder)
    if base is not None and (Path(base).is_dir() or not Path(base).is_absolute()):
        found["base"] = model_fingerprint(base)
    return found


def data_fingerprint(
    rows: Iterable[str | os.PathLike[str]] = (), images: Iterable[str] = (), root: str | os.PathLike[str] = "."
) -> dict[str, str]:
    """What a set of samples holds: `rows` over the files' contents, and its images; what is not given is left out.

    Images are covered by content (key `images`) up to `CONTENT_LIMIT` bytes together, beyond by the names and sizes
    of their files only (key `image_sizes`): reading a large set would take longer than many a run.

    Args:
        rows: files of samples or annotations; their names do not matter.
        images: paths relative to `root`.

    Raises:
        FoveaError: a file is missing or cannot be read.
    """
    base = Path(root)
    names = sorted(set(images))
    files = [Path(row) for row in rows]
    found = {"rows": digest(file_digests(files))} if files else {}
    if not names:
        return found
    sizes = [_stat(base / name).st_size for name in names]
    if sum(sizes) <= CONTENT_LIMIT:
        return {**found, "images": files_digest([base / name for name in names], base)}
    return {**found, "image_sizes": digest([names, sizes])}


def files_digest(files: Sequence[Path], root: Path) -> str:
    """A hash over the contents of files and their paths relative to `root`."""
    return digest([[file.relative_to(root).as_posix() for file in files], file_digests(files)])


def file_digests(files: Sequence[Path]) -> list[str]:
    """A hash of the whole content of each file; large ones are read by several threads.

    Raises:
        FoveaError: a file is missing or cannot be read.
    """
    keys = [_key(_stat(file)) for file in files]
    settled = time.time_ns() - _SETTLED
    unknown = [(file, key) for file, key in dict(zip(files, keys, strict=True)).items() if key not in _known]
    pieces = [(file, start) for file, key in unknown for start in range(0, max(1, key[2]), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = iter(list(pool.map(_piece, pieces)))
    fresh = {}
    for file, key in unknown:
        count = len(range(0, max(1, key[2]), _CHUNK))
        fresh[file] = digest([key[2], *(next(hashes) for _ in range(count))])
        if max(key[3:]) < settled:
            _known[key] = fresh[file]
    return [fresh[file] if file in fresh else _known[key] for file, key in zip(files, keys, strict=True)]


def digest(value: Any) -> str:
    """A hash of plain data: what JSON can say, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def derived(root: int, *use: str | int) -> int:
    """A seed in [0, 2**63) for one use of a root seed; other words, ranks and steps give another.

    It depends on its arguments alone, so a resumed run draws the same as an uninterrupted one.

    >>> derived(0, "noise", 0, 1) != derived(0, "noise", 1, 1)
    True
    """
    return int(digest([root, *use]), 16) % 2**63


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The keys, dotted, in which two fingerprints or settings differ; a missing key equals None.

    >>> differences({"model": {"weights": "a1"}, "seed": 1}, {"model": {"weights": "b2"}})
    ['model.weights', 'seed']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(str(key), old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(old, new, strict=True))]
    else:
        return [] if _same(old, new) else [where]
    return [key for name, a, b in pairs for key in differences(a, b, f"{where}.{name}" if where else name)]


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, bool) != isinstance(new, bool):  # Python takes True for 1
        return False
    return old == new or (isinstance(old, float) and isinstance(new, float) and isnan(old) and isnan(new))


def _part(name: str) -> str | None:
    return next((part for pattern, part in MODEL_PARTS if fnmatch(name, pattern)), None)


def _base_of(folder: Path) -> str | None:
    """The model that an adapter folder without weights of its own is laid on."""
    file = folder / "adapter_config.json"
    if not file.is_file() or any(folder.glob("model*.safetensors")):
        return None
    try:
        name = json.loads(file.read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{file}: not an adapter's configuration: {error}") from error
    return name if isinstance(name, str) else None


def _cached_commit(name: str, revision: str | None) -> str:
    # A third of a second that reading a folder should not cost
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        raise UsageError(f"model {name}: no such folder") from None
    if not isinstance(file, str):
        raise UsageError(f"model {name}: no such folder, and nothing of that name in the Hugging Face cache")
    return Path(file).parent.name


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise FoveaError(f"{file}: cannot be read: {error.strerror or error}") from error


def _key(stat: os.stat_result) -> tuple[int, ...]:
    # The time of the last change of the inode as well: the other one can be set to anything
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _piece(place: tuple[Path, int]) -> str:
    file, start = place
    try:
        with file.open("rb") as stream:
            stream.seek(start)
            return hashlib.sha256(stream.read(_CHUNK)).hexdigest()
    except OSError as error:
        raise FoveaError(f"{file}: cannot be read: {error.strerror or error}") from error
