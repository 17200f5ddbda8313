"""Qwen-VL processors for images only, for installations without torchvision.

The stock processors insist on a video processor, and that one needs torchvision. Everything Fovea does with
images works without it: the PIL image processor and the tokenizer are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import transformers

from grounding.errors import UsageError

NO_VIDEO = "video needs torchvision, which is not installed; install it with: pip install -e '.[gpu]'"

Class = TypeVar("Class", bound=type)


def _saved_as(name: str) -> Callable[[Class], Class]:
    """Give a class the stock name, which `save_pretrained` writes into the folder for others to find."""

    def rename(cls: Class) -> Class:
        cls.__name__ = name
        return cls

    return rename


class _ImagesOnly:
    """What the processors below change about their parents."""

    video_processor = None
    video_processor_type = ""

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> Any:
        """The parent's call. Raises `UsageError` when there is a video among the inputs."""
        if videos is not None:
            raise UsageError(NO_VIDEO)
        return super().__call__(images=images, text=text, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The parent's description, with the video processor that readers who have torchvision will ask for."""
        output = super().to_dict()
        images = output["image_processor"]
        shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
        output["video_processor"] = {
            "video_processor_type": self.video_processor_type,
            **{key: images[key] for key in shared if key in images},
        }
        return output


@_saved_as("Qwen2VLProcessor")
class Qwen2VLImageOnlyProcessor(_ImagesOnly, transformers.Qwen2VLProcessor):
    """Qwen2-VL's processor without its video half."""

    video_processor_type = "Qwen2VLVideoProcessor"

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


@_saved_as("Qwen2_5_VLProcessor")
class Qwen25VLImageOnlyProcessor(_ImagesOnly, transformers.Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half."""

    video_processor_type = "Qwen2VLVideoProcessor"

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


@_saved_as("Qwen3VLProcessor")
class Qwen3VLImageOnlyProcessor(_ImagesOnly, transformers.Qwen3VLProcessor):
    """Qwen3-VL's processor without its video half."""

    video_processor_type = "Qwen3VLVideoProcessor"

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


@_saved_as("InternVLProcessor")
class InternVLImageOnlyProcessor(_ImagesOnly, transformers.InternVLProcessor):
    """InternVL's processor without its video half. Pictures are cut into tiles, as its model was trained on."""

    video_processor_type = "InternVLVideoProcessor"

    def __init__(self, image_processor=None, tokenizer=None, image_seq_length=256, chat_template=None, **kwargs):
        super().__init__(
            image_processor,
            tokenizer,
            image_seq_length=image_seq_length,
            chat_template=chat_template,
            **kwargs,
        )


# By `model_type` of the model's config.
IMAGE_ONLY_PROCESSORS = {
    "qwen2_vl": Qwen2VLImageOnlyProcessor,
    "qwen2_5_vl": Qwen25VLImageOnlyProcessor,
    "qwen3_vl": Qwen3VLImageOnlyProcessor,
    "qwen3_vl_moe": Qwen3VLImageOnlyProcessor,
    "internvl": InternVLImageOnlyProcessor,
}
