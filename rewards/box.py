"""Rewards for one box against one box. p: the answer's box, g: the target's (a polygon counts by its bounds).

An answer without exactly one readable box scores the lowest value, and so does a box over more than `max_area` of
the image whose IoU is below 0.5: boxing everything is not pointing.
"""

from __future__ import annotations

import numpy as np

from grounding import geometry
from grounding.answer import Answer
from grounding.sample import ImageRef, Sample
from grounding.targets import Box
from rewards import reward
from rewards.single_target import SINGLE, WHOLE_IMAGE, is_whole_image, overlap, single_box, target_box


def _pair(answer: Answer, sample: Sample, max_area: float) -> tuple[Box, Box] | None:
    target = target_box(sample)  # first: a broken row is an error whatever the answer
    box = single_box(answer)
    if box is None or box.image != target.image or is_whole_image(box, target, max_area):
        return None
    return box, target


def _pixels(box: Box, image: ImageRef) -> np.ndarray:
    return np.array(box.xyxy) * (image.width, image.height, image.width, image.height)


@reward("iou", range=(0, 1), source="VLM-R1 (arXiv 2504.07615), UniVG-R1 (arXiv 2505.14231)", kinds=SINGLE)
def iou(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """area(p & g) / area(p | g)."""
    pair = _pair(answer, sample, max_area)
    return overlap(*pair) if pair else 0.0


@reward("iou_above", range=(0, 1), source="Seg-Zero (arXiv 2503.06520), LISA evaluation", kinds=SINGLE)
def iou_above(answer: Answer, sample: Sample, *, threshold: float = 0.5, max_area: float = WHOLE_IMAGE) -> float:
    """1 if IoU(p, g) > threshold, else 0. An IoU equal to it up to rounding is not above it."""
    pair = _pair(answer, sample, max_area)
    return float(pair is not None and geometry.above(overlap(*pair), threshold))


@reward("giou", range=(0, 1), source="Generalized IoU (arXiv 1902.09630)", kinds=SINGLE)
def giou(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """(GIoU(p, g) + 1) / 2 with GIoU = IoU - (hull - union) / hull, hull the smallest box around both.

    Rescaled because a group's mean is subtracted anyway; weight 2 gives back the usual [-1, 1].
    """
    pair = _pair(answer, sample, max_area)
    if pair is None:
        return 0.0
    return float((geometry.giou(np.array(pair[0].xyxy), np.array(pair[1].xyxy)) + 1) / 2)


@reward("diou", range=(0, 1), source="Distance IoU (arXiv 1911.08287)", kinds=SINGLE)
def diou(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """(DIoU(p, g) + 1) / 2 with DIoU = IoU - d^2 / c^2, in pixels of the original image.

    d: distance of the centers, c: diagonal of the smallest box around both. Pixels, because distances (unlike
    areas) change their ratio when a frame that is not square is squeezed into [0, 1].
    """
    pair = _pair(answer, sample, max_area)
    if pair is None:
        return 0.0
    image = sample.images[pair[1].image]
    return float((geometry.diou(_pixels(pair[0], image), _pixels(pair[1], image)) + 1) / 2)


@reward("ciou", range=(0, 1), source="Complete IoU (arXiv 1911.08287)", kinds=SINGLE)
def ciou(answer: Answer, sample: Sample, *, max_area: float = WHOLE_IMAGE) -> float:
    """(CIoU(p, g) + 1.5) / 2.5 with CIoU = DIoU - v^2 / (1 - IoU + v), in pixels of the original image.

    v = 4/pi^2 * (atan(w_g/h_g) - atan(w_p/h_p))^2. CIoU lies in (-1.5, 1]: distance takes at most 1, shape at most
    1/2 where the boxes are apart.
    """
    pair = _pair(answer, sample, max_area)
    if pair is None:
        return 0.0
    image = sample.images[pair[1].image]
    return float((geometry.ciou(_pixels(pair[0], image), _pixels(pair[1], image)) + 1.5) / 2.5)
