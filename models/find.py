"""Find a model: a local folder or a name on the Hugging Face Hub. If it is neither, the error says exactly why."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import requests

from grounding.errors import UsageError
from models.chat_client import within

_SECONDS = 1.5  # for the Hub to say whether it has a model; its client would try for half a minute
_SMALL = ("*.json", "*.jinja")  # configuration and chat template, without the weights


def find_model(model: str, flag: str = "--model") -> tuple[str, Path]:
    """What to load `model` from, and a folder that has its configuration.

    A folder is loaded from itself. A name on the Hub is loaded by that name, or from the cache where the Hub cannot
    be reached.

    Raises:
        UsageError: there is no such model. The message says which of the many reasons it is, within two seconds.
    """
    folder = Path(model)
    if folder.is_dir():
        _check_folder(folder, flag)
        return model, folder
    if folder.exists():
        raise UsageError(f"{flag} {model}: a file; give the folder of the model")
    if folder.is_absolute() or model.startswith((".", "~")) or _is_below_a_folder(folder) or not _is_hub_name(model):
        raise UsageError(f"{flag} {model}: no such folder{_hint(folder)}")
    return _find_on_hub(model, flag)


def short_name(model: str) -> str:
    """A model's name without the folders of this machine, for pages that may be sent around."""
    path = Path(model)
    return "/".join(path.parts[-3:]) if path.is_absolute() else model


def _find_on_hub(model: str, flag: str) -> tuple[str, Path]:
    from huggingface_hub import constants  # noqa: PLC0415

    there = _on_hub(model)
    if there is None:
        reason = f"not in the Hugging Face cache, and {constants.ENDPOINT} cannot be reached"
    else:
        reason = f"{constants.ENDPOINT} has no such model (or it is private or gated: `hf auth login`)"
    refusal = UsageError(f"{flag} {model}: no such folder, and {reason}")
    cache = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    if not there and not cache.is_dir():
        raise refusal
    # Half a second that a typo should not cost
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    if there:
        try:
            return model, Path(snapshot_download(model, allow_patterns=list(_SMALL)))
        except (HfHubHTTPError, OSError) as error:
            raise UsageError(f"{flag} {model}: cannot be downloaded: {str(error).strip().splitlines()[0]}") from error
    try:
        cached = snapshot_download(model, local_files_only=True)
    except LocalEntryNotFoundError:
        raise refusal from None
    return cached, Path(cached)


def _check_folder(folder: Path, flag: str) -> None:
    if (folder / "config.json").is_file():
        return
    inside = next((name for name in ("final", "model") if (folder / name / "config.json").is_file()), None)
    if inside is not None:
        raise UsageError(f"{flag} {folder}: holds a run, not a model; say {flag} {folder / inside}")
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{flag} {folder}: an adapter without its model; merge them, and give that folder")
    raise UsageError(f"{flag} {folder}: no config.json in this folder, so it is no model")


def _is_below_a_folder(path: Path) -> bool:
    return len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def _is_hub_name(model: str) -> bool:
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415
    from huggingface_hub.utils import validate_repo_id  # noqa: PLC0415

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


def _hint(path: Path) -> str:
    """The first part of the path that is missing, and what there is of a similar name."""
    missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
    try:
        beside = sorted(entry.name for entry in missing.parent.iterdir() if entry.is_dir())
    except OSError:
        beside = []
    parent = "" if missing == path else f"; {missing.parent} has no {missing.name}"
    close = get_close_matches(missing.name, beside, n=1)
    return parent + (f"; did you mean {close[0]!r}?" if close else "")


def _on_hub(name: str) -> bool | None:
    """Whether the Hub has a model; None when it cannot be asked."""
    from huggingface_hub import constants, get_token  # noqa: PLC0415

    if constants.is_offline_mode():
        return None
    token = get_token()
    url = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        response = within(_SECONDS, lambda: requests.head(url, headers=headers, timeout=_SECONDS))
    except (requests.RequestException, TimeoutError):
        return None
    return None if response.status_code >= 500 else response.status_code < 400
