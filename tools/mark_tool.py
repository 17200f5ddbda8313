"""Draw a box around what a call names, on the picture shown last, so that the model can check it."""

from __future__ import annotations

from PIL import ImageDraw

from grounding.crops import Crop
from grounding.errors import UsageError
from grounding.targets import Box
from tools import TOOLS, CallRefused, Shown, Tool, ToolCall, ToolView
from tools.zoom_tool import enlarged


@TOOLS.register("mark")
class Mark(Tool):
    """Shows the picture again with every box marked so far; its coordinates stay those of that picture.

    Args:
        color: of the lines, any color Pillow knows.
        width: of the lines, as a share of the picture's shorter side; at least one pixel.
        max_scale: how much a small crop is enlarged before it is drawn on.
    """

    description = "Draws a box around a region and shows the image with it."

    def __init__(self, color: str = "red", width: float = 0.01, max_scale: float = 8.0):
        if not 0 < width < 0.5 or max_scale < 1:
            raise UsageError("tool mark: width is a share in (0, 0.5), max_scale at least 1")
        self.color, self.width, self.max_scale = color, width, max_scale

    def run(self, call: ToolCall, view: ToolView) -> Shown:
        region = call.region
        if not isinstance(region, Box) or region.area <= 0:
            raise CallRefused("The region has no area.")
        crop = view.crop
        if region.image != crop.image or not _meet(region, crop.box):  # nothing of it is on that picture
            crop = Crop.whole(region.image, *view.images[region.image].size)
        view.marks.append(region)
        picture = enlarged(view.picture(crop).copy(), view.max_pixels, self.max_scale)
        across, down = crop.size
        factors = picture.width / across, picture.height / down
        line = max(1, round(self.width * min(picture.size)))
        pen = ImageDraw.Draw(picture)
        for box in (box for box in view.marks if box.image == crop.image):
            left, top = box.x1 * crop.width - crop.pixels[0], box.y1 * crop.height - crop.pixels[1]
            right, bottom = box.x2 * crop.width - crop.pixels[0], box.y2 * crop.height - crop.pixels[1]
            corners = left * factors[0], top * factors[1], right * factors[0], bottom * factors[1]
            pen.rectangle(corners, outline=self.color, width=line)
        return Shown(picture, crop)


def _meet(a: Box, b: Box) -> bool:
    return a.x1 < b.x2 and b.x1 < a.x2 and a.y1 < b.y2 and b.y1 < a.y2
