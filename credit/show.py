"""One response with its signals, as a self-contained HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from grounding.answer import Answer
from grounding.errors import UsageError
from grounding.io import replacing
from grounding.sample import Sample, regions_of
from grounding.targets import Box, Point, Polygon
from models.find import short_name

SHARE = 0.4  # of tokens marked as anchors and as preplan tokens, as published
SMALL = 0.025  # of the longer side: targets below it get a ring, since a frame would cover them
WORDS = {
    "waad": "how far back it looks",
    "fai": "how much later tokens look back at it",
    "image_mass": "share of its attention on the image",
    "target_mass": "share of its attention on the target",
    "entropy": "how unsure the model was of it",
    "sentence": "how much later sentences look back at its own",
}
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
        answer: what the response says.
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
    answer: Answer
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
        answer=policy.reader.answer(text, policy.sizes(sample)),
        grids=image_cells(inputs["image_grid_thw"], merge_size(policy.processor)),
        heads=captured.heads,
        sinks=int(captured.sinks().sum()),
    )


def render(shown: ShownResponse, sample: Sample, images: Sequence[Image.Image], model: str) -> str:
    """The page."""
    signals = {
        name: [None if not math.isfinite(value) else value for value in values]
        for name, values in shown.signals.items()
        if any(math.isfinite(value) for value in values)
    }
    words = {name: f"{WORDS[name]} ({name})" if name in WORDS else name.replace("_", " ") for name in signals}
    roles = {role: ", ".join(f"{at}.{head}" for at, head in heads) for role, heads in shown.heads.roles.items()}
    first = torch.tensor(shown.coordinate)
    chosen = first if first.any() else torch.ones_like(first)
    highest = max(shown.heat.max().item(), 1e-12)
    # The square root keeps the mean map and the single tokens' maps legible on one scale
    levels, default = (
        (heat.clamp(min=0) / highest).sqrt().mul(255).round().int().tolist()
        for heat in (shown.heat, shown.heat[chosen].mean(0))
    )
    answered = (*shown.answer.boxes, *shown.answer.points)
    page = {
        "id": sample.id,
        "instruction": sample.words,
        "share": f"{SHARE:.0%}",
        "signals": list(words.items()),
        "default": "the mean over the answer's numbers" if first.any() else "the mean over all tokens",
        "highest": f"{highest:.1%}" if highest >= 0.001 else f"{highest:.2g}",
        "answered": "answer" if answered else f"no answer with a place ({shown.answer.status.value})",
        "tokens": [
            {"text": text, "anchor": anchor, "preplan": preplan, "coordinate": coordinate}
            for text, anchor, preplan, coordinate in zip(
                shown.tokens, shown.anchors, shown.preplan, shown.coordinate, strict=True
            )
        ],
        "images": [
            {
                "source": _data_url(image),
                "width": image.width,
                "height": image.height,
                "rows": rows,
                "columns": columns,
                "truth": _shapes(regions_of(sample.target), index, image),
                "said": _shapes(answered, index, image),
            }
            for index, (image, (rows, columns)) in enumerate(zip(images, shown.grids, strict=True))
        ],
        "model": short_name(model),
        "layers": ", ".join(sorted({str(at) for heads in shown.heads.roles.values() for at, _ in heads})),
        "heads": "; ".join(f"{role} {heads}" for role, heads in roles.items()),
        "sinks": shown.sinks,
        "data": {"signals": signals, "words": words, "heat": levels, "default": default},
    }
    environment = Environment(loader=PackageLoader("credit"), autoescape=select_autoescape())
    return environment.get_template("show.html").render(page=page)


def _data_url(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shapes(regions: Sequence[Any], image: int, picture: Image.Image) -> list[dict[str, float]]:
    """What to draw in one image, in its pixels: rectangles, and rings of points and around small rectangles."""
    side, found = max(picture.size), []
    for region in regions:
        if getattr(region, "image", None) != image:
            continue
        shape = region.bounds if isinstance(region, Polygon) else region
        if isinstance(shape, Point):
            x, y = shape.x * picture.width, shape.y * picture.height
            found.append({"x": round(x, 2), "y": round(y, 2), "radius": round(side * 0.02, 2)})
        elif isinstance(shape, Box):
            x, y = shape.x1 * picture.width, shape.y1 * picture.height
            width, height = (shape.x2 - shape.x1) * picture.width, (shape.y2 - shape.y1) * picture.height
            sides = {"x": x, "y": y, "width": width, "height": height}
            found.append({name: round(value, 2) for name, value in sides.items()})
            if max(width, height) < side * SMALL:
                ring = {"x": x + width / 2, "y": y + height / 2, "radius": side * 0.03}
                found.append({name: round(value, 2) for name, value in ring.items()})
    return found


def write(path: Path, page: str) -> None:
    with replacing(path) as file:
        file.write_text(page, encoding="utf-8")
