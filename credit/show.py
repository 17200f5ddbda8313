"""One response with its signals, as a self-contained HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image
from torch import Tensor

from attention.heads import HeadSelection
from attention.reading import ATTENTION_FIELDS, AttentionReader, StepLog
from attention.visual import image_cells, merge_size
from credit.policy import LookedAtPolicy
from credit.schema import CreditConfig
from credit.strategies import select, waad_jumps
from credit.tokens import text_fields
from grounding.errors import UsageError
from grounding.io import replacing
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon

SHARE = 0.4  # of tokens marked as anchors and as preplan tokens, as published
LARGEST_SIDE = 1024  # of the screens in the page, in pixels


@dataclass(frozen=True)
class ShownResponse:
    """A response and everything the page says about it.

    Attributes:
        text: the response.
        tokens: its tokens' texts, special tokens left out.
        signals: name -> one number per token, NaN where there is none.
        anchors, preplan, coordinate: one flag per token.
        heat: (tokens, V) attention of the image-reading heads, sinks left out.
        grids: (rows, columns) of the heat per image.
        heads: what was listened to.
        sinks: how many image tokens were left out.
    """

    text: str
    tokens: list[str]
    signals: dict[str, list[float]]
    anchors: list[bool]
    preplan: list[bool]
    coordinate: list[bool]
    heat: Tensor
    grids: list[tuple[int, int]]
    heads: HeadSelection
    sinks: int


def examine(
    policy: LookedAtPolicy,
    sample: Sample,
    response: Sequence[int],
    config: CreditConfig,
    heads: HeadSelection | None = None,
) -> ShownResponse:
    """Run the model over a question and a response, and read every signal.

    Args:
        response: token ids.
        heads: a selection to use; without one it is made from this very response.

    Raises:
        UsageError: an empty response, or layers that cannot be captured.
    """
    if not len(response):
        raise UsageError("the response is empty: nothing to show")
    inputs = policy.prompts([sample])
    ids = torch.tensor([list(response)], device=inputs["input_ids"].device)
    mask = torch.ones_like(ids)
    said = text_fields(policy.reader, ids, mask, [policy.sizes(sample)], [sample])
    attention = AttentionReader(policy.model, config, ATTENTION_FIELDS, StepLog("credit"))
    attention.heads = heads
    given = {"sentences": said["sentence"], "logits": len(response) + 1}
    captured, logits = policy.read(attention, inputs, ids, mask, [sample], **given)
    attention.detach()

    fields = captured.signals()
    logps = logits[:, :-1].float().log_softmax(-1)
    fields["entropy"] = -(logps.exp() * logps).sum(-1)
    text, spans = policy.reader.decoder.spans(list(response))
    kept = [i for i, (start, end) in enumerate(spans) if end > start]
    marks = {
        "anchors": select(fields["fai"], mask.bool(), SHARE),
        "preplan": select(waad_jumps(fields["waad"], mask.bool()), mask.bool(), SHARE),
        "coordinate": said["coordinate"] > 0,
    }
    return ShownResponse(
        text=text,
        tokens=[text[slice(*spans[i])] for i in kept],
        signals={name: [values[0, i].item() for i in kept] for name, values in fields.items()},
        **{name: [bool(flags[0, i]) for i in kept] for name, flags in marks.items()},
        heat=captured.heat(0)[kept],
        grids=image_cells(inputs["image_grid_thw"], merge_size(policy.processor)),
        heads=captured.heads,
        sinks=int(captured.sinks().sum()),
    )


def render(shown: ShownResponse, sample: Sample, images: Sequence[Image.Image], model: str) -> str:
    """The page."""
    highest = shown.heat.amax(-1, keepdim=True).clamp(min=1e-12)
    signals = {
        name: [None if not math.isfinite(value) else value for value in values]
        for name, values in shown.signals.items()
        if any(math.isfinite(value) for value in values)
    }
    roles = {role: ", ".join(f"{at}.{head}" for at, head in heads) for role, heads in shown.heads.roles.items()}
    page = {
        "id": sample.id,
        "instruction": sample.instruction,
        "share": f"{SHARE:.0%}",
        "signals": list(signals),
        "tokens": [
            {"text": text, "anchor": anchor, "preplan": preplan, "coordinate": coordinate}
            for text, anchor, preplan, coordinate in zip(
                shown.tokens, shown.anchors, shown.preplan, shown.coordinate, strict=True
            )
        ],
        "images": [
            {"source": _data_url(image), "rows": rows, "columns": columns, "boxes": _boxes(sample, index)}
            for index, (image, (rows, columns)) in enumerate(zip(images, shown.grids, strict=True))
        ],
        "model": model,
        "layers": ", ".join(sorted({str(at) for heads in shown.heads.roles.values() for at, _ in heads})),
        "heads": "; ".join(f"{role} {heads}" for role, heads in roles.items()),
        "sinks": shown.sinks,
        "data": {"signals": signals, "heat": (shown.heat / highest * 255).round().int().tolist()},
    }
    environment = Environment(loader=PackageLoader("credit"), autoescape=select_autoescape())
    return environment.get_template("show.html").render(page=page)


def _data_url(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _boxes(sample: Sample, image: int) -> list[list[float]]:
    """Left, top, width and height in percent of the target's regions in one image; a point is a small square."""
    boxes = []
    for region in regions_of(sample.target):
        if getattr(region, "image", None) != image:
            continue
        shape = region.bounds if isinstance(region, Polygon) else region
        if isinstance(shape, Point):
            boxes.append([100 * shape.x - 1, 100 * shape.y - 1, 2.0, 2.0])
        elif isinstance(shape, Box):
            sides = (shape.x1, shape.y1, shape.x2 - shape.x1, shape.y2 - shape.y1)
            boxes.append([round(100 * side, 3) for side in sides])
    return boxes


def write(path: Path, page: str) -> None:
    with replacing(path) as file:
        file.write_text(page, encoding="utf-8")
