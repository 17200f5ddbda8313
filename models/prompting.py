"""Prompts: one rendering of the question for SFT, GRPO, rejection, evaluation and credit.

`question` writes the user's text, `messages` places the pictures in it, `encode` makes the model's inputs of that;
`grounding.decoding` reads the completion, and `models.sampling` holds the sampling parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grounding.answer import ImageSize
from grounding.completion import check_grammar
from grounding.decoding import render_chat
from grounding.dialects import get_dialect
from grounding.errors import UsageError
from grounding.wording import arrange, numbered
from models.profile import Profile


def question(profile: Profile, text: str, answer_kind: str, sizes: Sequence[ImageSize]) -> str:
    """The user's text: the profile's prompt template or the dialect's words, and the grammar's sentence.

    Several images stand where `text` has them, else before or after it, numbered as the family numbers them.

    Args:
        text: what to find (`Sample.question`); places in it (`grounding.wording`) are written in the dialect's
            numbers.
        answer_kind: what is asked for: box, point, ...
        sizes: of all images of the sample, as the model sees them.

    Raises:
        UsageError: as `Dialect.prompt`.
    """
    dialect = get_dialect(profile.dialect)
    asked = dialect.prompt(text, answer_kind, check_grammar(profile.grammar), sizes, template=profile.prompt)
    return numbered(asked, len(sizes), dialect.numbering, profile.image_first)


def messages(text: str, images: int, *, image_first: bool, system: str | None) -> list[dict[str, Any]]:
    """A question as a chat template takes it, with the system message before it where there is one.

    Images stand where `text` has `<image>` marks, else before or after it, numbered where there are several.
    """
    parts = arrange(text, images, image_first)
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    user: dict[str, Any] = {"role": "user", "content": content}
    if system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def prompt_text(
    processor: Any,
    chat: Sequence[Mapping[str, Any]],
    *,
    answered: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """A chat as the model reads it, up to where its answer begins, or with its answer; `tools` are their schemas.

    Raises:
        UsageError: the processor has no chat template, or one that fails.
    """
    if getattr(processor, "chat_template", None) is None:
        raise UsageError(
            f"{type(processor).__name__}: no chat template to ask with; copy the chat_template.jinja of an "
            "instruction-tuned model of the family into the model's folder"
        )
    return render_chat(processor, chat, prompt=not answered, tools=tools)


def encode(processor: Any, texts: Sequence[str], images: Sequence[Sequence[Any]]) -> Any:
    """The model's inputs for prompts (of `prompt_text`) and their images, left-padded.

    The template writes every special token itself; none is added.
    """
    return processor(
        text=list(texts),
        images=[list(own) for own in images] if any(images) else None,
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
    )
