"""Load a policy and its processor from a folder or the Hub, safely, with or without torchvision."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import is_torchvision_available

from grounding.answer import ImageSize
from grounding.errors import UsageError
from models.processors import IMAGE_ONLY_PROCESSORS
from models.quantizing import keep_plain_kernels, quantization
from models.sampling import forget_published

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_config(path: str | os.PathLike[str], *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's configuration. Raises `UsageError` when there is none to be found at `path`."""
    folder = Path(path)
    if folder.is_absolute() and not folder.is_dir():
        raise UsageError(f"model {path}: no such folder")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(f"model {path}: no config.json in this folder, so it is not a model; check model.path")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UsageError(f"model {path}: {_first_line(error)}") from error


def load_processor(
    path: str | os.PathLike[str],
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    trust_remote_code: bool = False,
) -> ProcessorMixin:
    """The processor (images and text) of a model.

    Without torchvision, `AutoProcessor` quietly hands out a bare tokenizer for the Qwen-VL family; here such a
    folder gets an image-only processor made of the same parts.

    Args:
        path: model folder or Hub name.
        min_pixels, max_pixels: limits for the resized image's area, for processors that know them.

    Raises:
        UsageError: nothing at `path` processes images.
    """
    config = load_config(path, trust_remote_code=trust_remote_code)
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise UsageError(
            f"model {path}: no {' or '.join(PROCESSOR_FILES)}, so images cannot be prepared; "
            "copy the processor's files from the model's original folder"
        )
    images_only = IMAGE_ONLY_PROCESSORS.get(config.model_type)
    try:
        if images_only is not None and not is_torchvision_available():
            processor = images_only.from_pretrained(path)
        else:
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"model {path}: its processor cannot be loaded: {_first_line(error)}") from error
    if getattr(processor, "image_processor", None) is None:
        raise UsageError(
            f"model {path}: transformers found only a {type(processor).__name__}, nothing for images; "
            "the processor probably needs torchvision: pip install -e '.[gpu]'"
        )
    _limit_pixels(processor, min_pixels, max_pixels, where=str(path))
    processor.tokenizer.padding_side = "left"
    return processor


def load_policy(
    path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    device: str | torch.device | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    quantize: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A vision-language model that generates text, and its processor.

    The folder's sampling parameters are dropped, see `models.sampling`.

    Args:
        path: model folder or Hub name.
        dtype: as in `from_pretrained`; "auto" takes what the weights were saved in.
        attn_implementation: as in `from_pretrained`; None lets transformers choose.
        device: where to put the weights; None leaves them where `from_pretrained` does.
        min_pixels, max_pixels: see `load_processor`.
        quantize: "nf4" holds the language model's linear layers in 4 bits, see `models.quantizing`; on this process's
            GPU where there is one.
        allow_pickle: also read weights in pickle files, which can run code of whoever made them.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        UsageError: no model, no processor, only pickled weights, or weights that are damaged or not the model's.
    """
    processor = load_processor(
        path, min_pixels=min_pixels, max_pixels=max_pixels, trust_remote_code=trust_remote_code
    )
    check_weights(path, allow_pickle=allow_pickle)
    kwargs: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    # Weights of another shape are then told, with their names, as missing ones are
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    if quantize is not None:
        kwargs["quantization_config"] = quantization(weights_dtype(path, dtype, trust_remote_code=trust_remote_code))
    # None means: safetensors if there are any, else pickle. True never reads pickle, for Hub models too.
    kwargs["use_safetensors"] = None if allow_pickle else True
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(path, **kwargs)
    except SafetensorError as error:
        raise UsageError(f"model {path}: {_damaged(Path(path))}: {_first_line(error)}; get it again") from error
    except pickle.UnpicklingError as error:  # torch reads tensors only, whatever else the file would run
        raise UsageError(
            f"model {path}: its pickled weights hold something other than tensors, or are damaged; convert them to "
            "safetensors where you trust their maker"
        ) from error
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"model {path}: {_first_line(error)}") from error
    _check_loaded(path, info)
    if quantize is not None:
        keep_plain_kernels(model)
    forget_published(model, processor)
    if device is not None:
        model = model.to(device)
    return model, processor


def weights_dtype(
    path: str | os.PathLike[str], dtype: str | torch.dtype, *, trust_remote_code: bool = False
) -> torch.dtype:
    """The type of a model's weights when it is loaded with `dtype`; where nothing says one, 32 bits."""
    if dtype == "auto":
        config = load_config(path, trust_remote_code=trust_remote_code)
        return config.dtype or config.get_text_config().dtype or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def check_weights(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> None:
    """Raise `UsageError` when a model folder holds no weights, or only pickled ones and they are not allowed."""
    folder = Path(path)
    if not folder.is_dir():
        return
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if not pickled:
        raise UsageError(f"model {path}: no weights (*.safetensors) in this folder")
    if not allow_pickle:
        raise UsageError(
            f"model {path}: {pickled[0]} is a pickle, which can run code when it is read; convert it to safetensors, "
            "or set model.allow_pickle=true if you trust its maker"
        )


def _check_loaded(path: str | os.PathLike[str], info: Mapping[str, Any]) -> None:
    """Raise `UsageError` where transformers would go on with new random weights in place of the model's."""
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise UsageError(
            f"model {path}: {name} is {list(found)} in its weights, {list(expected)} by its config.json; "
            "the two belong to different models"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise UsageError(
            f"model {path}: {len(missing)} weights are missing from its files ({missing[0]}); get the model again"
        )


def _damaged(folder: Path) -> str:
    """The first weight file of a model that cannot be read."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            safe_open(file, framework="pt")
        except SafetensorError:
            return f"{file.name} is damaged"
    return "its weights are damaged"


def save_policy(folder: str | os.PathLike[str], model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Write a model folder that `load_policy` reads here and stock transformers reads anywhere."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def processor_sizes(processor: ProcessorMixin, inputs: Any) -> list[tuple[int, int]]:
    """(width, height) in pixels of every image as the model sees it, in the order of the batch.

    Args:
        inputs: what `processor(images=..., ...)` returned: `image_grid_thw` (N, 3) in patches for the Qwen family,
            else `pixel_values` (N, C, H, W), of whole images or, where images are cut up, of their tiles.
    """
    grid = inputs.get("image_grid_thw")
    if grid is not None:
        patch = processor.image_processor.patch_size
        return [(int(columns) * patch, int(rows) * patch) for _, rows, columns in torch.as_tensor(grid).tolist()]
    height, width = inputs["pixel_values"].shape[-2:]
    return [(int(width), int(height))] * len(inputs["pixel_values"])


class SeenSizes:
    """The size at which a processor shows an image of a given size, asked of the processor itself, once per size."""

    def __init__(self, processor: ProcessorMixin):
        self._processor = processor
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}

    def __call__(self, width: int, height: int) -> ImageSize:
        key = (width, height)
        if key not in self._seen:
            blank = Image.new("RGB", key)
            # Plain pixels: only the shape is wanted
            inputs = self._processor.image_processor(
                images=[blank], do_rescale=False, do_normalize=False, return_tensors="pt"
            )
            self._seen[key] = processor_sizes(self._processor, inputs)[0]
        return ImageSize(width, height, *self._seen[key])

    def of(self, images: Sequence[Any]) -> tuple[ImageSize, ...]:
        """Sizes of several images; each has `.width` and `.height`."""
        return tuple(self(image.width, image.height) for image in images)


def _limit_pixels(processor: ProcessorMixin, low: int | None, high: int | None, where: str) -> None:
    if low is None and high is None:
        return
    size = dict(processor.image_processor.size)
    if "shortest_edge" not in size or "longest_edge" not in size:
        raise UsageError(
            f"model {where}: {type(processor.image_processor).__name__} has no min_pixels and max_pixels"
        )
    # The Qwen processors keep areas under names of edges.
    size["shortest_edge"] = size["shortest_edge"] if low is None else low
    size["longest_edge"] = size["longest_edge"] if high is None else high
    if size["shortest_edge"] > size["longest_edge"]:
        raise UsageError(
            f"model.min_pixels ({size['shortest_edge']}) is greater than max_pixels ({size['longest_edge']})"
        )
    processor.image_processor.size = size


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
