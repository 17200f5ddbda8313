"""Token ids of a completion to the text that is parsed: the same in training, selection, evaluation and credit.

Special tokens are kept: the answers of some families consist of them (``<ref>``, ``<|box_start|>``, ``<loc_120>``).
End-of-turn tokens, padding, and the special tokens that mark turns and images in the chat template are left out. If
the generation prompt ends in an open tag (``<think>``, as chat templates of reasoning models write it), that tag is
put before the text.

Next, `grounding.completion` separates thought and answer, and a dialect parses the answer. Tokenizers and processors
are those of transformers, which is not imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from jinja2 import TemplateError

from grounding.completion import ANSWER, END_ANSWER, END_THINK, THINK, Grammar, opened_by
from grounding.errors import UsageError

# What rendering a chat template can raise
TEMPLATE_FAILURES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_QUESTION, _ANSWER = "?", "Answer"


class Decoder:
    """Decodes the completions of one model.

    Args:
        tokenizer: of the model.
        ends: ids that end a completion, besides the tokenizer's end-of-sequence and padding tokens.
        opened: the tags that the generation prompt has opened.
        frame: ids that are not part of the text: beginning of a sequence or turn, images.
    """

    def __init__(self, tokenizer: Any, ends: Iterable[int] = (), opened: str = "", frame: Iterable[int] = ()):
        self._tokenizer = tokenizer
        self.ends = frozenset(ends) | {tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
        self.opened = opened
        self._frame = frozenset(frame)

    @classmethod
    def of(cls, processor: Any, ends: int | Iterable[int] | None = None, grammar: Grammar = "think") -> Decoder:
        """The decoder of a processor (or a tokenizer) and its chat template.

        Args:
            ends: `eos_token_id` of the model's generation configuration.
            grammar: what was asked for.
        """
        listed = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        tokenizer = getattr(processor, "tokenizer", processor)
        return cls(tokenizer, {*listed, *turn_ends(processor)}, opening(processor, grammar), frame_of(processor))

    def __call__(self, ids: Sequence[int]) -> str:
        """The completion's text, what the prompt opened included."""
        return self.opened + self._text([ids[at] for at in self._kept(ids)])

    def spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and each token's range [start, end) in it.

        Tokens that are left out have an empty range. Pieces of a character that spans several tokens count as the
        last of them.
        """
        kept = self._kept(ids)
        own = [ids[at] for at in kept]
        text = self._text(own)
        pieces = [self._text([token]) for token in own]
        if "".join(pieces) == text:
            ends = list(accumulate(map(len, pieces)))
        else:  # tokens that are parts of characters decode to replacement characters on their own
            ends, settled = [], 0
            for count in range(1, len(own) + 1):
                prefix = self._text(own[:count])
                settled = max(settled, min(len(prefix.rstrip("\ufffd")), len(text)))
                ends.append(settled)
        reached, by_position = len(self.opened), dict(zip(kept, ends, strict=True))
        spans = []
        for at in range(len(ids)):
            end = by_position[at] + len(self.opened) if at in by_position else reached
            spans.append((reached, end))
            reached = end
        return self.opened + text, spans

    def length(self, ids: Sequence[int]) -> int:
        """How many tokens the model wrote, the one that ends the completion included."""
        kept = self._kept(ids)
        written = kept[-1] + 1 if kept else 0
        return min(written + 1, len(ids))

    def _kept(self, ids: Sequence[int]) -> list[int]:
        """Positions of the tokens that make the text: from the first that is no end to the next end."""
        first = next((at for at, token in enumerate(ids) if token not in self.ends), len(ids))
        last = next((at for at in range(first, len(ids)) if ids[at] in self.ends), len(ids))
        return [at for at in range(first, last) if ids[at] not in self._frame]

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def opening(processor: Any, grammar: Grammar) -> str:
    """What the generation prompt of a chat template has written of a completion, see `grounding.completion`."""
    return opened_by(_render(processor, _QUESTION, prompt=True), grammar)


def turn_ends(processor: Any) -> frozenset[int]:
    """The special token that a chat template writes after an answer, which is what training teaches to end with."""
    after = _render(processor, _QUESTION, _ANSWER).rpartition(_ANSWER)[2]
    tokenizer = getattr(processor, "tokenizer", processor)
    first = tokenizer(after, add_special_tokens=False)["input_ids"][:1] if after else []
    return frozenset(first) & _special(tokenizer).keys()


def frame_of(processor: Any) -> frozenset[int]:
    """The special tokens of which a chat template builds turns and images: never a part of an answer."""
    tokenizer = getattr(processor, "tokenizer", processor)
    template = str(getattr(processor, "chat_template", None) or "")
    named = {getattr(processor, name, None) for name in ("image_token", "video_token")}
    frame = {
        token
        for token, text in _special(tokenizer).items()
        if (text in template and text not in (THINK, END_THINK, ANSWER, END_ANSWER)) or text in named
    }
    return frozenset(frame | {tokenizer.bos_token_id} - {None})


def _special(tokenizer: Any) -> dict[int, str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token: entry.content for token, entry in added.items() if entry.special}


def _render(processor: Any, *turns: str, prompt: bool = False) -> str:
    """The turns, the user's first, in the chat template; empty without one."""
    if getattr(processor, "chat_template", None) is None:
        return ""
    chat = [
        {"role": role, "content": [{"type": "text", "text": words}]}
        for role, words in zip(("user", "assistant"), turns, strict=False)
    ]
    return render_chat(processor, chat, prompt=prompt)


def render_chat(
    processor: Any,
    chat: Sequence[Mapping[str, Any]],
    *,
    prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """A chat in the processor's template, with what begins an answer where `prompt` asks for it.

    Args:
        tools: their schemas, for templates that tell the model about them.

    Raises:
        UsageError: the template fails: it is a program of the model's maker.
    """
    given = {"tools": list(tools)} if tools else {}
    try:
        text: str = processor.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=prompt, **given)
    except TEMPLATE_FAILURES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"the model's chat template fails: {reason}; correct its chat_template.jinja") from error
    return text
