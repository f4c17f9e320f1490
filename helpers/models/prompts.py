"""What a text encoder reads of a prompt: one it cannot read is refused, what it cuts is told."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.audio import Remark

Kind = TypeVar("Kind")
KEPT_WORDS = 6  # how many of the last words that are read a warning shows


class PromptError(ValueError):
    """A prompt that cannot be used; the message says why and what to do."""


@dataclass(eq=False)
class TextEncoder:
    """A tokenizer of transformers, and the model that reads its tokens.

    Of a prompt ``max_tokens`` are read, by default as many as the tokenizer says.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    model : PreTrainedModel
    """

    max_tokens: ClassVar[int | None] = None
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel

    @property
    def reads(self) -> int:
        """How many tokens are read of a prompt."""
        return self.max_tokens or self.tokenizer.model_max_length

    @torch.no_grad()
    def read(self, prompts: list[str], padding: bool | str = True) -> tuple[Any, Tensor]:
        """Return the model's output, and the mask (batch, length) of what is no padding."""
        batch = self.tokenizer(
            prompts,
            padding=padding,
            truncation=True,
            max_length=self.reads,
            return_tensors="pt",
        ).to(self.model.device)
        mask = batch["attention_mask"]
        return self.model(input_ids=batch["input_ids"], attention_mask=mask), mask


def check_prompts(prompts: Sequence[str], text_encoder: object) -> None:
    """Refuse prompts that say nothing to a text encoder; warn of what it does not read.

    Parameters
    ----------
    prompts : sequence of str
    text_encoder : object
        A :class:`TextEncoder`, or one that holds some; others are asked nothing.

    Raises
    ------
    PromptError
        If a prompt is no text, is empty or invisible, or holds nothing that the encoder knows.
    """
    if not prompts or not all(isinstance(p, str) and _is_visible(p) for p in prompts):
        raise PromptError("The prompt is empty: describe the sound you want, e.g. 'a dog barking'.")
    if any(prompt != prompt.encode("utf-8", "replace").decode() for prompt in prompts):
        raise PromptError("The prompt holds bytes that are no text: type it again, in UTF-8.")
    for encoder in held(text_encoder, TextEncoder):
        for prompt in prompts:
            _check(prompt, encoder)


def _is_visible(text: str) -> bool:
    """Whether any character shows: spaces, controls and zero-width ones do not."""
    return any(unicodedata.category(character)[0] not in "ZC" for character in text)


def held(encoder: object, kind: type[Kind]) -> Iterator[Kind]:
    """Yield all of a kind that a text encoder is, or holds in its parts."""
    if isinstance(encoder, kind):
        yield encoder
    else:
        for part in getattr(encoder, "__dict__", {}).values():
            if isinstance(part, kind) or type(part).__module__.startswith("helpers."):
                yield from held(part, kind)


def _check(prompt: str, encoder: TextEncoder) -> None:
    tokenizer = encoder.tokenizer
    whole = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = whole["input_ids"]
    known = [token for token in tokens if token not in tokenizer.all_special_ids]
    if not str(tokenizer.decode(known)).strip():
        raise PromptError(
            f"The text encoder can read nothing of the prompt {prompt!r}: describe the sound in "
            "English words, e.g. 'a dog barking'."
        )
    places = whole["offset_mapping"]
    unknown = [
        prompt[start:end]
        for token, (start, end) in zip(tokens, places, strict=True)
        if token == tokenizer.unk_token_id
    ]
    if unknown:
        _tell(
            f"The text encoder cannot read {', '.join(map(repr, dict.fromkeys(unknown)))} in the "
            f"prompt {prompt!r}: use English words."
        )
    room = encoder.reads - tokenizer.num_special_tokens_to_add()
    if len(tokens) > room:
        words = prompt[: _end_of_words(places, room)].split()
        _tell(
            f"The prompt is too long: the text encoder reads its first {len(words)} words, up to "
            f"“…{' '.join(words[-KEPT_WORDS:])}”; shorten it."
        )


def _tell(remark: str) -> None:
    """Warn, where the caller of :func:`check_prompts` was called."""
    warnings.warn(remark, Remark, stacklevel=5)


def _end_of_words(places: list[tuple[int, int]], room: int) -> int:
    """Where the last word ends of which all tokens have room."""
    ends = [
        (end, index)
        for index, ((_, end), (start, _)) in enumerate(pairwise(places), start=1)
        if start > end and index <= room
    ]
    return ends[-1][0] if ends else places[room - 1][1]
