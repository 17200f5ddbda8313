"""How a processor shows pictures that are made while an episode runs: their size and what they cost in tokens."""

from __future__ import annotations

from typing import Any

from grounding.answer import ImageSize
from grounding.errors import UsageError
from models.loading import SeenSizes


class PictureSizes:
    """Sizes and token counts of a processor of the Qwen-VL kind, asked of the processor itself, once per size.

    Attributes:
        max_pixels: the largest area at which a picture is shown.

    Raises:
        UsageError: a processor of another kind.
    """

    def __init__(self, processor: Any):
        images = getattr(processor, "image_processor", None)
        if not hasattr(images, "merge_size") or not hasattr(images, "patch_size"):
            raise UsageError(
                f"{type(processor).__name__} does not say how many tokens a picture takes; tools need a processor of "
                "the Qwen-VL kind"
            )
        self._cell = int(images.patch_size) * int(images.merge_size)
        self._seen = SeenSizes(processor)
        self.max_pixels: int | None = dict(images.size).get("longest_edge")

    def size(self, width: int, height: int) -> ImageSize:
        """The size at which a picture is seen. Raises ValueError for a shape the processor refuses."""
        return self._seen(width, height)

    def tokens(self, width: int, height: int) -> int:
        """How many image tokens a picture takes. Raises as `size`."""
        seen = self.size(width, height)
        return (seen.input_width // self._cell) * (seen.input_height // self._cell)
