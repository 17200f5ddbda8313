"""`CreditAssigner`: what a trainer needs to know about credit, and nothing else.

How a trainer of TRL's uses it (`recipes.grpo.FoveaGRPOTrainer`). TRL reads `inputs["advantages"]`, (B,) or (B, T),
after its own training forward, so the weights are made in between, from what that very forward showed:

    generated:  `annotate` adds what the text says to the batch, tensors (B, ...) that TRL shuffles and splits
    forward:    `capturing` around TRL's own; `masked_pixels` for one more, when `wants_masked_logps` (only `vppo`)
    loss:       `apply(weights(...), advantages)`, in a copy of the batch: the buffered one keeps its (B,) advantages

Where weights depend on the other responses (`over_batch`) and the batch is split, the same is done once over the
whole of it, without gradients, when it is generated.

`weights` keeps its result in `inputs["credit_weights"]` (the buffered batch), so later iterations over the same batch
reuse it and `capturing` then does nothing. `metrics()` hands out what was logged since the last call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from torch import Tensor, nn

from attention.heads import FILE_NAME, HeadSelection
from attention.reading import ATTENTION_FIELDS, AttentionReader, CapturedPass, ResponseBatch, StepLog
from attention.response import TextReader, answer_and_thought, decoder_of
from attention.text_attention import pretrained
from attention.visual import batch_coverage, image_cells, mask_patches, merge_size
from credit.schema import CreditConfig
from credit.strategies import STRATEGIES, Signals, finish, signed
from credit.tokens import own_tokens, spread, text_fields
from grounding.answer import ImageSize
from grounding.errors import UsageError
from grounding.fingerprint import derived

WEIGHTS = "credit_weights"  # key of the finished weights in TRL's inputs
RIVALS = ("coordinate", "entropy", "local_chunk", "global_anchor", "visual_anchor")  # whose choice is compared
TEXT_FIELDS = frozenset({"coordinate", "claim", "sentence"})


class CreditAssigner:
    """Weights for the tokens of each response, from one recipe's `credit:` mapping.

    Args:
        config: the mapping (see `credit.schema`), or an already read `CreditConfig`.
        model: the policy, wrapped or not; its text layers' attention is taken over where the strategy needs it.
        processor: the policy's processor (its tokenizer, and the image processor's patch merging).
        dialect: the policy's dialect, for strategies that read the text; anything with its `parse`.
        grammar: the grammar of completions, see `grounding.completion`.
        seed: of the run; `credit.seed` is one more, for other draws in the same run.
        rank: of this process, which draws its own.

    Raises:
        UsageError: an unknown strategy, key or parameter, or layers that cannot be captured.
    """

    def __init__(
        self,
        config: CreditConfig | Mapping[str, Any],
        model: nn.Module,
        processor: Any,
        dialect: Any = None,
        grammar: str = "think",
        *,
        seed: int = 0,
        rank: int = 0,
    ):
        self.config = config if isinstance(config, CreditConfig) else CreditConfig.from_mapping(config)
        self._strategy = self.config.function
        self.needs: frozenset[str] = getattr(self._strategy, "needs", ATTENTION_FIELDS | TEXT_FIELDS | {"entropy"})
        self._dialect, self._grammar = dialect, grammar
        self._reader = TextReader(decoder_of(model, processor, grammar), self._read, self._read_piece)
        self._image_token = getattr(pretrained(model).config, "image_token_id", None)
        self._merge = merge_size(processor)
        self._logged = StepLog("credit")
        self._attention: AttentionReader | None = None
        if self.needs & ATTENTION_FIELDS:
            self._attention = AttentionReader(model, self.config, self.needs, self._logged)
        if self.needs & (TEXT_FIELDS | {"target_mass"}) - {"sentence"} and dialect is None:
            raise UsageError(f"credit: strategy {self.config.strategy!r} reads the text and needs the dialect")
        self._seed, self._rank = seed, rank
        self._captured: CapturedPass | None = None

    @property
    def over_batch(self) -> bool:
        """Whether a response's weights depend on the other responses of its batch: then `weights` has to see the
        whole generation batch at once, and gathers it from all processes."""
        return self.config.normalize == "batch" or getattr(self._strategy, "over_batch", False)

    def annotate(
        self, rows: Sequence[Mapping[str, Any]], output: Mapping[str, Any], step: int = 0
    ) -> dict[str, Tensor]:
        """What the text says, for the strategies that read it: tensors to be added to TRL's generation output.

        Args:
            rows: B rows of the data set with the columns `sample` (JSON of `grounding.sample.to_row`) and `sizes`
                (JSON, [[width, height, input_width, input_height], ...]).
            output: what `_generate_and_score_completions` returned for them.
            step: of training, which together with the seeds decides the noise.

        Returns:
            `credit_coordinate`, `credit_claim` (B, T) float; `credit_sentence` (B, T) long; `credit_coverage` (B, P)
            float; `credit_noise` (B, T) float. Only those the strategy needs, and the coordinates, with which every
            strategy is compared in the log.
        """
        with self._logged.timed():
            found = self._said(rows, output)
            if "noise" in self.needs:  # now, so that it does not depend on how responses are later split into batches
                shape, draw = output["completion_ids"].shape, self._generator("noise", step)
                found["credit_noise"] = torch.rand(shape, generator=draw)
            return {name: tensor.to(output["prompt_ids"].device) for name, tensor in found.items()}

    def _said(self, rows: Sequence[Mapping[str, Any]], output: Mapping[str, Any]) -> dict[str, Tensor]:
        compared = bool(self.needs) and self._dialect is not None  # with the coordinates, in the log
        read = self.needs & (TEXT_FIELDS | {"target_mass"})
        if not (read or compared):
            return {}
        result, ids, mask = {}, output["completion_ids"], output["completion_mask"]
        sizes = [row["sizes"] for row in rows]
        samples = [row["sample"] for row in rows] if read else []
        if self.needs & TEXT_FIELDS:
            noted = text_fields(self._reader, ids, mask, sizes, samples)
            result |= {f"credit_{name}": values for name, values in noted.items()}
        elif compared:
            tokens = zip(own_tokens(ids, mask), sizes, strict=True)
            found = [answer_and_thought(self._reader, *given)[0] for given in tokens]
            result["credit_coordinate"] = spread(found, mask, 0.0)
        if "target_mass" in self.needs and self._image_token is not None:
            result["credit_coverage"] = self._coverage(samples, output)
        return result

    @contextmanager
    def capturing(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Around the one forward pass over `inputs` that the weights are to be made from.

        Does nothing for strategies without attention, and when `inputs` holds its weights already. The model must be
        run on the whole batch once, without cache; several groups of responses in order are fine.
        """
        if self._attention is None or WEIGHTS in inputs:
            yield
            return
        with self._logged.timed():
            batch = ResponseBatch.of(
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
                _scored(inputs),
                self._image_token,
                coverage=inputs.get("credit_coverage"),
                sentences=inputs.get("credit_sentence"),
            )
        with self._attention.reading(batch) as self._captured:
            yield

    def wants_masked_logps(self, inputs: Mapping[str, Any]) -> bool:
        """Whether `weights` will want the log-probabilities under partly masked images: one more forward pass,
        without gradients, over `masked_pixels`."""
        return "masked_logps" in self.needs and WEIGHTS not in inputs and inputs.get("pixel_values") is not None

    def masked_pixels(self, inputs: Mapping[str, Any], step: int = 0) -> Tensor:
        """The inputs' pixel values with a share of the patches (the parameter `masked`) blanked, other ones at each
        step."""
        share = float(self.config.params.get("masked", 0.5))
        draw = self._generator("masked", step)
        return mask_patches(inputs["pixel_values"], inputs.get("image_grid_thw"), share, self._merge, draw)

    @torch.no_grad()
    def weights(
        self,
        inputs: MutableMapping[str, Any],
        logps: Tensor | None = None,
        entropies: Tensor | None = None,
        masked_logps: Tensor | None = None,
    ) -> Tensor:
        """The weights of the batch, normalized, (B, T) float32, without gradient; kept in `inputs` for reuse.

        Args:
            inputs: TRL's inputs, as given to `capturing`.
            logps, entropies: (B, T) from the same forward pass.
            masked_logps: (B, T) when `wants_masked_logps`.

        Responses without tokens, with numbers that are not finite, or that the strategy left flat, have weight 1.
        """
        if WEIGHTS in inputs:
            return inputs[WEIGHTS]
        with self._logged.timed():
            mask = _scored(inputs)
            signals, broken = self._signals(inputs, mask, logps, entropies, masked_logps)
            raw, weights, broken = self._weigh(signals, mask, broken)
            inputs[WEIGHTS] = weights
            self._log(raw, weights, mask, broken, signals)
            return weights

    def apply(self, weights: Tensor, advantages: Tensor) -> Tensor:
        """(B, T) advantages for TRL: weights times the sequence's advantage, for the signs asked for.

        Args:
            weights: (B, T) of `weights`.
            advantages: (B,) or (B, T).
        """
        own = signed(weights, advantages, self.config.sign)
        return own * (advantages.unsqueeze(1) if advantages.dim() == 1 else advantages)

    def metrics(self) -> dict[str, float]:
        """Means since the last call, by TRL metric name; empty when no weights were made.

        credit/mean, credit/spread (standard deviation over tokens), credit/amplified (share of tokens whose weight
        the strategy raised above 1), credit/flat (share of responses it left uniform), credit/fallback (number of
        responses made uniform because of numbers that are not finite), credit/overlap_NAME (share of the raised
        tokens that strategy NAME would raise too, at its defaults; entropy always, others of `RIVALS` where their
        signals are there: coordinates where there is a dialect to find them), credit/seconds, and
        credit/time_share (of the wall time since the last call; on a GPU, of launching, since nothing waits).
        """
        return self._logged.metrics(totals=("fallback",))

    @property
    def heads(self) -> HeadSelection | None:
        """The heads listened to, once they are chosen."""
        return None if self._attention is None else self._attention.heads

    def save(self, folder: Path | str) -> None:
        """Keep the selection of heads beside a checkpoint, as `credit_heads.json`; nothing when there is none yet."""
        if self.heads is not None:
            self.heads.save(Path(folder) / FILE_NAME)

    def state(self) -> dict[str, Any]:
        """What `AttentionReader.state` tells, in plain JSON types."""
        return {"passes": 0, "heads": None} if self._attention is None else self._attention.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Raises `UsageError` where it speaks of other layers or heads."""
        if self._attention is not None:
            self._attention.restore(state)

    def detach(self) -> None:
        """Give the model its own attention implementation back."""
        if self._attention is not None:
            self._attention.detach()

    def _signals(
        self,
        inputs: Mapping[str, Any],
        mask: Tensor,
        logps: Tensor | None,
        entropies: Tensor | None,
        masked_logps: Tensor | None,
    ) -> tuple[Signals, Tensor]:
        """The fields the strategy needs, and (B,) bool, which responses showed numbers that are not finite."""
        found: dict[str, Tensor | None] = {}
        broken = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        if self._captured is not None:
            captured, self._captured = self._captured, None
            found.update(captured.signals())
            broken |= captured.broken
        elif self._attention is not None:
            raise RuntimeError("weights() without capturing() around the forward pass")
        given = {
            "noise": inputs.get("credit_noise"),
            "entropy": entropies,
            "logps": logps,
            "masked_logps": masked_logps,
            "coordinate": inputs.get("credit_coordinate"),
            "claim": inputs.get("credit_claim"),
        }
        for name, value in given.items():
            if name in self.needs or (value is not None and name in ("entropy", "coordinate")):
                found[name] = _or_nan(value, mask)
        return Signals(**found), broken

    def _weigh(self, signals: Signals, mask: Tensor, broken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The strategy's weights before and after normalization, (B, T), and (B,) which responses were made uniform;
        where they depend on the whole batch, from the responses of all processes."""
        length, first = mask.shape[1], 0
        if self.over_batch and PartialState().num_processes > 1:
            first = PartialState().process_index * len(mask)
            given = {f.name: getattr(signals, f.name) for f in fields(Signals)}
            signals = Signals(**{k: v if v is None else _everywhere(v) for k, v in given.items()})
            own, mask, broken = len(mask), _everywhere(mask), gather(broken)
        else:
            own = len(mask)
        raw = self._strategy(signals, mask, **self.config.params).to(device=mask.device, dtype=torch.float32)
        broken = broken | ~torch.where(mask, raw, 1.0).isfinite().all(-1)
        raw = torch.where(broken[:, None], 1.0, raw)
        weights = finish(raw, mask, self.config.normalize)
        part = slice(first, first + own)
        return raw[part, :length], weights[part, :length], broken[part]

    def _log(self, raw: Tensor, weights: Tensor, mask: Tensor, broken: Tensor, signals: Signals) -> None:
        """Collect what `metrics` reports, with one transfer from the device."""
        inside = mask.float()
        count = inside.sum().clamp(min=1)
        mean = (weights * inside).sum() / count
        spread = ((weights - mean).square() * inside).sum().div(count).sqrt()
        raised = (raw > 1) & mask
        flat = torch.where(mask, raw - 1, 0).abs().amax(-1) == 0
        values = {
            "mean": mean,
            "spread": spread,
            "amplified": raised.sum() / count,
            "flat": flat.float().mean(),
            "fallback": (broken & mask.any(-1)).sum(),
        }
        for name in RIVALS:
            rival = STRATEGIES.get(name)
            if rival is not self._strategy and all(getattr(signals, need) is not None for need in rival.needs):
                same = raised & (rival(signals, mask) > 1)
                values[f"overlap_{name}"] = same.sum() / raised.sum().clamp(min=1)
        for name, value in zip(values, torch.stack([v.float() for v in values.values()]).tolist(), strict=True):
            self._logged.add(name, value)

    def _coverage(self, samples: Sequence[Any], output: Mapping[str, Any]) -> Tensor:
        grids, counts = output.get("image_grid_thw"), output.get("num_images")
        ids = output["prompt_ids"]
        if counts is None or not sum(counts):
            return torch.zeros(ids.shape)
        if grids is None:
            raise UsageError(
                f"credit: strategy {self.config.strategy!r} asks which image tokens lie in the target, and this "
                "model's processor gives no image_grid_thw to say where they lie; take another strategy"
            )
        return batch_coverage(ids, self._image_token, image_cells(grids, self._merge), counts, samples)

    def _read(self, text: str, sizes: Sequence[ImageSize]) -> Any:
        return self._dialect.parse(text, sizes, grammar=self._grammar)

    def _read_piece(self, text: str, sizes: Sequence[ImageSize]) -> Any:
        return self._dialect.parse(text, sizes, grammar="bare")

    def _generator(self, use: str, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived(self._seed, "credit", use, self.config.seed, self._rank, step))


def _scored(inputs: Mapping[str, Any]) -> Tensor:
    """(B, T) bool: response tokens, without padding and results of tools."""
    mask = inputs["completion_mask"].bool()
    return mask & inputs["tool_mask"].bool() if "tool_mask" in inputs else mask


def _everywhere(values: Tensor) -> Tensor:
    """(B, T) of each process -> (processes * B, longest T), in the order of the processes, padded with NaN, or with 0
    where the values are no floats."""
    fill = torch.nan if values.is_floating_point() else 0
    padded = pad_across_processes(values, dim=1, pad_index=fill)
    return gather(padded.to(values.dtype).contiguous())  # padding makes int64 of bool, on the processes that pad


def _or_nan(values: Tensor | None, mask: Tensor) -> Tensor:
    """(B, T) as it is, or all NaN (no score, so the strategy leaves the response uniform) when it was not given."""
    if values is None:
        return torch.full(mask.shape, torch.nan, device=mask.device)
    return values.detach().float()
