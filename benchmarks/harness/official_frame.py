"""The frame an official rule computes in, and every way into it and out of it.

Official scripts compare pixels, and so do ours: a click on an edge and an IoU that meets its threshold exactly must
come out as they do there. Answers arrive canonical (from a dialect) or in the space a file is declared in; results
leave canonical again. Nothing is clamped.

This is why a benchmark has an item and a prediction of its own instead of a `Sample` and an `Answer`, which hold
nothing outside the image: official boxes reach beyond it or have swapped corners, files do not say how large their
images are, and several outlines or moments are one target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.harness.items import XY, BenchmarkItem, ItemImage, Prediction
from grounding.answer import Answer, ImageSize
from grounding.errors import UsageError

Sizes: TypeAlias = tuple[tuple[int, int], ...]

# Canonical -> pixel -> canonical must give the same integer pixel back: (1 / 49) * 49 does not.
DIGITS = 9
ANY_SIZE = (
    1 << 20
)  # of an image whose size is not known: a power of two, so that pixels survive the way there and back


def scale(item: BenchmarkItem, image: int = 0) -> XY:
    """Canonical units to the item's frame, per axis."""
    if item.frame == "unit":
        return 1.0, 1.0
    picture = item.images[min(image, len(item.images) - 1)] if item.images else ItemImage("")
    return float(picture.width or ANY_SIZE), float(picture.height or ANY_SIZE)


def has_sizes(item: BenchmarkItem) -> bool:
    """Whether the item's coordinates can be made canonical; else they stay pixels."""
    return item.frame == "unit" or (bool(item.images) and all(picture.known for picture in item.images))


def canonical(coords: Sequence[float], item: BenchmarkItem, image: int) -> list[float]:
    """Coordinates of the item's frame in canonical units, where it `has_sizes`."""
    if not has_sizes(item):
        return list(coords)
    sx, sy = scale(item, image)
    return [c / (sy if i % 2 else sx) for i, c in enumerate(coords)]


def from_answer(answer: Answer, item: BenchmarkItem) -> Prediction:
    """A dialect's answer in the frame of `item`: canonical times size, to nine digits.

    What reaches outside the image stays in its place among the rest, as official scripts, which do not check, score
    it; the status says so.
    """

    def place(coords: Sequence[float], image: int) -> tuple[float, ...]:
        sx, sy = scale(item, image)
        return tuple(round(c * (sy if i % 2 else sx), DIGITS) for i, c in enumerate(coords))

    boxes: list[tuple[Any, int, str | None]] = [(b.xyxy, b.image, b.label) for b in answer.boxes]
    points: list[tuple[Any, int, str | None]] = [((p.x, p.y), p.image, p.label) for p in answer.points]
    if answer.out_of_bounds:
        for regions, width in ((boxes, 4), (points, 2)):
            for number, stray in enumerate(s for s in answer.out_of_bounds if len(s.coords) == width):
                regions.insert(stray.rank + number, (stray.coords, stray.image, stray.label))
    regions = boxes or points
    return Prediction(
        status=answer.status,
        strict=answer.strict,
        boxes=tuple(place(coords, image) for coords, image, _ in boxes),  # type: ignore[misc]
        points=tuple(place(coords, image) for coords, image, _ in points),  # type: ignore[misc]
        spans=tuple((s.start, s.end) for s in answer.spans),
        images=tuple(image for _, image, _ in regions),
        labels=tuple(label for _, _, label in regions),
        text=answer.text,
        absent=answer.absent,
        thought=answer.thought,
    )


def sizes_of(item: BenchmarkItem, seen: list[list[int]] | None = None) -> tuple[ImageSize, ...]:
    """Sizes of the item's images for a dialect; `seen` are [width, height] the model was shown."""
    return tuple(
        ImageSize(p.width or ANY_SIZE, p.height or ANY_SIZE, *(seen[i] if seen else (0, 0)))
        for i, p in enumerate(item.images)
    )


@dataclass(frozen=True, slots=True)
class DeclaredSpace:
    """From the space a predictions file is declared in to an item's frame.

    Attributes:
        space: one of `SPACES`.
        seen: sizes the model was shown, for space "resized".
        where: the line, for errors.
    """

    item: BenchmarkItem
    space: str | None
    seen: Sizes | None
    where: str

    def place(self, coords: Sequence[float], image: int) -> tuple[float, ...]:
        """Coordinates in the item's frame; nothing is clamped or reordered. Pixels are rounded as those of boxes are.

        Raises:
            UsageError: a size is needed and not known.
        """
        if self.space == self.item.frame == "pixel":
            return tuple(round(c, DIGITS) for c in coords)
        if self.space == self.item.frame:
            return tuple(coords)
        if self.space == "pixel":
            fx, fy = self._size(image)
            return tuple(c / (fy if i % 2 else fx) for i, c in enumerate(coords))
        unit = self.item.frame == "unit"
        sx, sy = (1.0, 1.0) if unit else self._size(image)
        if self.space == "resized":
            if self.seen is None:
                raise UsageError(
                    f"{self.where}: pixels of the resized image need the resized size: give 'seen': [[width, height]]"
                )
            dx, dy = self.seen[image]
        else:
            dx = dy = 1000 if self.space == "thousand" else 1
        placed = tuple(c / (dy if i % 2 else dx) * (sy if i % 2 else sx) for i, c in enumerate(coords))
        return placed if unit else tuple(round(c, DIGITS) for c in placed)

    def _size(self, image: int) -> XY:
        pictures = self.item.images
        if not pictures or not pictures[image].known:
            raise UsageError(
                f"{self.where}: the size of the image of item {self.item.id!r} is needed but not in the annotations; "
                "put the images into the data folder, or give coordinates in the benchmark's own unit"
            )
        return float(pictures[image].width), float(pictures[image].height)


def within(coords: Sequence[float], item: BenchmarkItem, image: int) -> bool:
    """Inside the image and, for boxes, corners in order; True when the size is unknown and nothing is negative."""
    sx, sy = scale(item, image)
    inside = all(0 <= c <= (sy if i % 2 else sx) for i, c in enumerate(coords))
    return inside and (len(coords) < 4 or (coords[0] <= coords[2] and coords[1] <= coords[3]))
