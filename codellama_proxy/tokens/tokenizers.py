"""Counts tokens: exactly if the vocabulary is available, otherwise by an estimate.

Vocabularies are files whose hash is checked before they are loaded, because the library would download a missing or
damaged one. Usage reported by upstreams takes precedence over these counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from tiktoken import Encoding

# Encoding -> (file name, SHA-256), as the library names its cache.
FILES: Mapping[str, tuple[str, str]] = {
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
}
OF_IDS = "cl100k_base"
"""The encoding that clients use for token ids."""
LARGE_CHARACTERS = 20_000
"""Texts from this length on are counted in a thread."""
MAX_COUNTED_CHARACTERS = 250_000
"""Counted characters of one request (at most 0.3 s of work); the rest is extrapolated."""
MAX_COUNTED_MESSAGES = 20_000
"""Number of messages that are counted individually."""
MAX_RUN_CHARACTERS = 2_000
"""Longer runs without white space, or of white space only, are counted in pieces, because the library's time and stack
use grow disproportionately with their length."""
SAMPLE_SLICES = 25
"""Number of slices that are sampled from a long text."""

PER_MESSAGE, PER_NAME, PER_REPLY, PER_TOOL = 3, 1, 3, 10
IMAGE, IMAGE_LOW = 1000, 85

_OLDER = re.compile(r"(gpt-4($|-)|gpt-3\.5|gpt-35|text-embedding-|davinci-002|babbage-002)")
_OPENAI = re.compile(r"(gpt-|o\d|chatgpt-|text-embedding-|davinci-002|babbage-002|codex-)")

Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """The vocabularies in memory, by name; `None` for one whose file is missing or damaged."""

    encodings: dict[str, Encoding | None]

    def count(self, text: str, model: str) -> tuple[int, bool]:
        """The number of tokens, and whether it is exact: other vendors' models use the nearest vocabulary."""
        encoding = self.encodings.get(encoding_name(model))
        if encoding is None:
            return estimate(text), False
        if len(text) > MAX_COUNTED_CHARACTERS:
            return sampled(text, MAX_COUNTED_CHARACTERS, lambda piece: _encoded(encoding, piece)), False
        pieces = _pieces(text)
        counted = sum(_encoded(encoding, piece) for piece in pieces)
        return counted, len(pieces) == 1 and is_openai(model)

    def decode(self, ids: Sequence[int]) -> str | None:
        """The text of token ids in OpenAI's older vocabulary; `None` if unknown."""
        encoding = self.encodings.get(OF_IDS)
        try:
            return None if encoding is None else encoding.decode(ids)
        except Exception:  # an invalid token id
            return None

    async def count_in_thread(self, text: str, model: str) -> tuple[int, bool]:
        """The same, in a thread for long texts."""
        if len(text) < LARGE_CHARACTERS:
            return self.count(text, model)
        return await asyncio.to_thread(self.count, text, model)


class Tally:
    """Counts the texts of one request: the first `MAX_COUNTED_CHARACTERS`, and the rest in proportion."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._left = MAX_COUNTED_CHARACTERS
        self._characters = 0
        self._tokens = 0

    def __call__(self, text: str) -> int:
        if len(text) <= self._left:
            found = self._count(text)
            counted = len(text)
        elif self._left >= SAMPLE_SLICES:
            found = sampled(text, self._left, self._count)
            counted = self._left
        else:
            return max(-(-len(text) * self._tokens // max(self._characters, 1)), of_size(len(text)))
        self._left -= counted
        self._characters += len(text)
        self._tokens += found
        return found


def sampled(text: str, most: int, count: Count) -> int:
    """Tokens of a long text, extrapolated from slices of `most` characters in total; at most its bytes."""
    width = max(most // SAMPLE_SLICES, 1)
    step = len(text) / SAMPLE_SLICES
    slices = [text[at : at + width] for at in (int(step * number) for number in range(SAMPLE_SLICES))]
    characters = sum(map(len, slices))
    found = -(
        -sum(count(piece) for one in slices for piece in _pieces(one)) * len(text) // max(characters, 1)
    )
    return min(found, len(text.encode("utf-8", "surrogatepass")))


def _pieces(text: str) -> list[str]:
    """The text in pieces without overlong runs."""
    if len(text) < MAX_RUN_CHARACTERS:
        return [text]
    cuts = [0]
    for run in _RUNS.finditer(text):
        if run.end() - run.start() >= MAX_RUN_CHARACTERS:
            cuts += [*range(run.start(), run.end(), MAX_RUN_CHARACTERS), run.end()]
    cuts.append(len(text))
    return [text[start:end] for start, end in itertools.pairwise(cuts) if start < end]


_RUNS = re.compile(r"\s+|\S+")


def _encoded(encoding: Encoding, text: str) -> int:
    """Tokens of a short piece; estimated if the library fails."""
    try:
        return len(encoding.encode(text, disallowed_special=()))
    except Exception:
        return estimate(text)


def load(name: str, directory: Path) -> Encoding | None:
    """A vocabulary; `None` if its file is missing or damaged. Takes tenths of a second and 26 or 48 MB."""
    return _encoding(name, directory) if _undamaged(name, directory) else None


def _undamaged(name: str, directory: Path) -> bool:
    file, sha256 = FILES[name]
    try:
        return hashlib.sha256((directory / file).read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _encoding(name: str, directory: Path) -> Encoding:
    # The library has no other setting for its directory.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(directory)
    import tiktoken  # noqa: PLC0415 - not needed without files, and not quick

    encoding = tiktoken.get_encoding(name)
    encoding._mergeable_ranks = {}  # frees 30 MB: the counting core has its own copy
    return encoding


def encoding_name(model: str) -> str:
    """The encoding of a model: OpenAI's newer models have the larger one, other vendors' are closer to the smaller."""
    name = _plain(model)
    return "o200k_base" if _OPENAI.match(name) and not _OLDER.match(name) else "cl100k_base"


def is_openai(model: str) -> bool:
    """Whether the model's own vocabulary is among ours."""
    return _OPENAI.match(_plain(model)) is not None and "oss" not in model


def _plain(model: str) -> str:
    return model.rpartition("/")[2]


def estimate(text: str) -> int:
    """An estimate without a vocabulary: within a third for most languages, far too low for base64."""
    if not text:
        return 0
    if text.isascii():
        return max(1, -(-len(text) // 4))
    if len(text) > LARGE_CHARACTERS:
        return sampled(text, LARGE_CHARACTERS, estimate)
    return max(1, round(sum(map(_weight, text))))


def of_size(size: int) -> int:
    """A rough estimate of the tokens in so many bytes of a request."""
    return -(-size // 4)


def _weight(char: str) -> float:
    code = ord(char)
    if code < 128:
        return 0.25
    if 0x2E80 <= code <= 0xD7FF or 0xF900 <= code <= 0xFAFF or 0xFF00 <= code <= 0xFFEF:
        return 0.75
    return 2.0 if code > 0xFFFF else 0.3


MAX_FRAMING_TOKENS = 16
"""Upper bound of the framing tokens of one message."""


def framing_bound(messages: Sequence[Mapping[str, Any]]) -> int:
    """Upper bound of a prompt's framing tokens, in addition to one token per byte."""
    return MAX_FRAMING_TOKENS * (len(messages) + 2)


def of_given(given: Sequence[Any], count: Count) -> int:
    """Tokens of prompts or inputs, which may be texts or token ids."""
    return sum(count(one) if isinstance(one, str) else len(one) for one in given)


# --- chats -------------------------------------------------------------------------------------------------


def of_chat(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], count: Count) -> int:
    """Tokens of a whole prompt: content and message framing."""
    return (
        PER_REPLY
        + sum(_of_message(message, count) for message in messages)
        + sum(PER_TOOL + count(orjson.dumps(tool).decode()) for tool in tools)
    )


def _of_message(message: Mapping[str, Any], count: Count) -> int:
    tokens = PER_MESSAGE + count(str(message.get("role", ""))) + _of_content(message.get("content"), count)
    if message.get("name"):
        tokens += PER_NAME + count(str(message["name"]))
    if message.get("tool_calls"):
        tokens += count(orjson.dumps(message["tool_calls"]).decode())
    return tokens


def _of_content(content: Any, count: Count) -> int:
    if isinstance(content, str):
        return count(content)
    if isinstance(content, Iterable):
        return sum(_of_part(part, count) for part in content)
    return 0


def _of_part(part: Any, count: Count) -> int:
    match part:
        case {"type": "text", "text": str(text)}:
            return count(text)
        case {"type": "image_url", "image_url": {"detail": "low"}}:
            return IMAGE_LOW
        case {"type": "image_url" | "input_audio" | "file"}:
            return IMAGE
        case _:
            return 0
