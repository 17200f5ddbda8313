"""Look again: a part of the picture, cut from the original pixels and shown as large as the model can take it."""

from __future__ import annotations

from PIL import Image

from grounding.crops import Crop
from grounding.errors import UsageError
from grounding.targets import Box, Point
from tools import TOOLS, CallRefused, Shown, Tool, ToolCall, ToolView


@TOOLS.register("zoom")
class Zoom(Tool):
    """Shows the region a call names, enlarged.

    Args:
        min_side: of what is cut out, in pixels of the original; smaller regions are grown about their center. The
            default is what the smallest pictures of the Qwen family need. From 2 on a point is a region too.
        square: cut out squares, so that crops are shown in one shape.
        pad: grow the region first by this share of its sides, on each side.
        max_pixels: area of the shown picture; None is the model's own limit.
        max_scale: at most so many times the original's size, each way.
    """

    description = "Zooms in on a region: shows that part of the image again, enlarged."

    def __init__(
        self,
        min_side: int = 28,
        square: bool = False,
        pad: float = 0.0,
        max_pixels: int | None = None,
        max_scale: float = 8.0,
    ):
        if min_side < 1 or max_scale < 1 or pad < 0 or (max_pixels is not None and max_pixels < 1):
            raise UsageError("tool zoom: min_side, max_scale and max_pixels are at least 1, pad at least 0")
        self.min_side, self.square, self.pad = min_side, square, pad
        self.max_pixels, self.max_scale = max_pixels, max_scale
        self.takes_point = min_side > 1

    def run(self, call: ToolCall, view: ToolView) -> Shown:
        region = call.region
        if isinstance(region, Point):
            region = Box(region.x, region.y, region.x, region.y, region.image)
        elif region is None or region.area <= 0:
            raise CallRefused("The region has no area.")
        width, height = view.images[region.image].size
        crop = Crop.around(region, width, height, min_side=self.min_side, square=self.square, pad=self.pad)
        limits = [limit for limit in (self.max_pixels, view.max_pixels) if limit is not None]
        limit = min(limits) if limits else None
        return Shown(enlarged(view.picture(crop), limit, self.max_scale), crop)


def enlarged(picture: Image.Image, limit: int | None, most: float) -> Image.Image:
    """A picture at most `most` times as wide and high, and of no more than `limit` pixels; never a smaller one."""
    width, height = picture.size
    factor = most if limit is None else min(most, (limit / (width * height)) ** 0.5)
    if factor <= 1:
        return picture
    size = max(width, int(width * factor)), max(height, int(height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC)
