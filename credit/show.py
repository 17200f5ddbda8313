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

from attention.capture import AttentionCapture, LayerRows, middle_layers, pretrained
from attention.gather import ATTENTION_FIELDS, Gatherer, ResponseBatch, prompt_and_response
from attention.heads import HeadSelection, HeadStats, select_heads
from attention.response import TextReader
from attention.visual import attention_over_image, image_cells, merge_size, region_coverage, visual_sinks
from credit.config import CreditConfig
from credit.strategies import select, waad_jumps
from credit.tokens import annotate_response
from grounding.answer import ImageSize
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


@torch.no_grad()
def examine(
    model: Any,
    processor: Any,
    inputs: Any,
    response: Sequence[int],
    *,
    sample: Sample,
    sizes: Sequence[ImageSize],
    reader: TextReader,
    config: CreditConfig,
    heads: HeadSelection | None = None,
) -> ShownResponse:
    """Run the model over a prompt and a response, and read every signal.

    Args:
        inputs: the processor's output for the prompt, one row.
        response: token ids.
        heads: a selection to use; without one it is made from this very response.

    Raises:
        UsageError: an empty response, or layers that cannot be captured.
    """
    if not len(response):
        raise UsageError("the response is empty: nothing to show")
    base = pretrained(model).config
    text_config = base.get_text_config()
    layers = middle_layers(text_config.num_hidden_layers) if config.layers == "middle" else config.layers
    ids = torch.tensor([list(response)], device=inputs["input_ids"].device)
    prompt = inputs["input_ids"]
    grids = image_cells(inputs["image_grid_thw"], merge_size(processor))
    coordinate, _, sentence = annotate_response(reader, list(response), sizes, sample)
    scored = {
        "prompt_ids": prompt,
        "prompt_mask": inputs["attention_mask"],
        "completion_ids": ids,
        "completion_mask": torch.ones_like(ids),
        "credit_sentence": torch.tensor([sentence]),
        "credit_coverage": region_coverage(prompt[0], base.image_token_id, grids, sample).unsqueeze(0),
    }
    batch = ResponseBatch.from_inputs(scored, base.image_token_id)
    forward = prompt_and_response(inputs, ids, batch.valid)
    shown: list[LayerRows] = []
    capture = AttentionCapture(model, layers)
    with capture.open(batch.valid, batch.prompt - 1, shown.append):
        logits = model(**forward).logits[0, batch.prompt - 1 : -1].float()
    capture.detach()

    gatherer = Gatherer(config, ATTENTION_FIELDS, batch, None)
    for one in shown:
        gatherer.consume(one)
    if heads is None:
        stats = HeadStats(layers, text_config.num_attention_heads)
        gatherer.measure(stats)
        heads = select_heads(stats.means(), layers, config.heads.share, config.heads.image_share, config.heads.keys)
    gatherer.settle(heads)
    fields = gatherer.result()
    logps = logits.log_softmax(-1)
    fields["entropy"] = -(logps.exp() * logps).sum(-1)[None]
    heat, sinks = _heat(shown, heads, batch, config.sink_ratio)
    text, spans = reader.decoder.spans(list(response))
    kept = [i for i, (start, end) in enumerate(spans) if end > start]
    anchors = select(fields["fai"], batch.mask, SHARE)[0]
    preplan = select(waad_jumps(fields["waad"], batch.mask), batch.mask, SHARE)[0]
    return ShownResponse(
        text=text,
        tokens=[text[slice(*spans[i])] for i in kept],
        signals={name: [values[0, i].item() for i in kept] for name, values in fields.items()},
        anchors=[bool(anchors[i]) for i in kept],
        preplan=[bool(preplan[i]) for i in kept],
        coordinate=[coordinate[i] > 0 for i in kept],
        heat=heat[kept],
        grids=grids,
        heads=heads,
        sinks=sinks,
    )


def _heat(shown: Sequence[LayerRows], heads: HeadSelection, batch: ResponseBatch, ratio: float) -> tuple[Tensor, int]:
    """(T, V) mean over the image-reading heads of the rows that predicted each token, and the number of sinks."""
    total = torch.zeros(batch.mask.shape[1], len(batch.image))
    found = torch.zeros_like(batch.image.present)
    for one in shown:
        if chosen := heads.of("image", one.layer):
            rows = one.rows.part(0, len(one.rows) - 1).of(chosen)
            sinks = visual_sinks(rows, batch.image, batch.mask, ratio)
            total += (attention_over_image(rows, batch.image)[0].sum(0) * ~sinks[0]).float().cpu()
            found |= sinks
    return total / heads.count("image"), int(found.sum())


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
