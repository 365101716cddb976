"""How many tokens the pictures, sounds and files of a chat can take at most, by each provider's formula. Pure.

What is sent along is bounded by its pixels, pages or seconds, not by the length of its base64. What is named by an
address or a file's id is as large as the provider takes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.tokens.pixels import Size, size_of_base64

LARGEST = Size(100_000, 100_000)
"""Stands for a picture of unknown size: every formula has its most long before."""
PAGE = 6_000
"""Tokens of a page, as a picture and as text."""
MAX_PAGES = 100
"""Of one file, as most providers take it."""
PDF = "JVBERi"
"""What a PDF begins with, in base64."""
MIN_PAGE_BYTES = 20
"""Bytes of a page in a PDF, however well it is compressed."""
BYTES_PER_SECOND = 500
"""The fewest bytes that a second of sound takes: no codec of those that providers read goes below 4 kbit/s."""
TOKENS_PER_SECOND = 32
"""Of sound, by the provider that counts the most."""
MAX_SOUND_SECONDS = 10 * 3600
"""Seconds of a sound that is named by an address."""
OTHER = 10_000
"""Tokens of a part of a kind unknown here, beside its bytes."""

PICTURES = frozenset({"image_url", "image", "input_image"})
SOUNDS = frozenset({"input_audio", "audio", "audio_url"})
FILES = frozenset({"file", "input_file", "document", "document_url"})
MOVING = frozenset({"video_url", "video", "input_video"})
TEXTS = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning"}
)
BASE64 = re.compile(r"\s*data:([\w.+/-]*)[^,]{0,200};base64,", re.IGNORECASE)


class Media(NamedTuple):
    """One picture, sound or file of a chat."""

    kind: str
    """`picture`, `sound`, `pages` or `other`."""
    size: Size = LARGEST
    low: bool = False
    """The client asked for little detail."""
    tokens: int = 0
    """Of what is no picture."""


Formula = Callable[[Size, bool], int]


def found_in(messages: Iterable[Mapping[str, Any]]) -> tuple[list[Media], int]:
    """What the messages bring along, and how many of their bytes are its base64."""
    media: list[Media] = []
    encoded = 0
    for part in _parts(messages):
        one, length = _media(part)
        if one is not None:
            media.append(one)
            encoded += length
    return media, encoded


def _parts(messages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All parts, those inside of others too."""
    waiting: list[Any] = [message.get("content") for message in messages]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, Mapping):
            yield one
            if isinstance(one.get("content"), list | tuple):
                waiting.append(one["content"])


def bound(media: Iterable[Media], deployment: Deployment) -> int:
    """Tokens that they take at most at this deployment."""
    formula = formula_of(deployment)
    return sum(formula(one.size, one.low) if one.kind == "picture" else one.tokens for one in media)


# --- what a part is ------------------------------------------------------------------------------------------


def _media(part: Mapping[str, Any]) -> tuple[Media | None, int]:
    kind = part.get("type")
    if not isinstance(kind, str):
        return Media("other", tokens=OTHER), 0
    if kind in TEXTS or (kind == "tool_result" and "content" in part):
        return None, 0
    if kind in PICTURES:
        return _picture(part)
    data = _data(part)
    if kind in SOUNDS:
        seconds = MAX_SOUND_SECONDS if data is None else _bytes(data) // BYTES_PER_SECOND + 1
        return Media("sound", tokens=seconds * TOKENS_PER_SECOND), len(data or "")
    if kind in FILES:
        return Media("pages", tokens=MAX_PAGES * PAGE if data is None else _of_file(data)), len(data or "")
    if kind in MOVING:
        return Media("pages", tokens=MAX_PAGES * PAGE), len(data or "")
    return Media("other", tokens=OTHER), 0


def _picture(part: Mapping[str, Any]) -> tuple[Media, int]:
    data = _data(part)
    inner = part.get("image_url")
    detail = inner.get("detail") if isinstance(inner, Mapping) else part.get("detail")
    size = None if data is None else size_of_base64(data)
    return Media("picture", size or LARGEST, low=detail == "low"), len(data or "")


def _data(part: Mapping[str, Any]) -> str | None:
    """The base64, or text, that a part brings along; `None` where it names an address or a file."""
    places = [part, *[one for name in PLACES if isinstance(one := part.get(name), Mapping)]]
    told = [str(place[name]) for place in places for name in CONTENT if isinstance(place.get(name), str)]
    told += [str(part[name]) for name in PLACES if isinstance(part.get(name), str)]
    for one in told:
        if (head := BASE64.match(one[:400])) is not None:
            return one[head.end() :]
    for place in places:
        for name in ("data", "file_data"):
            raw = place.get(name)
            if isinstance(raw, str):
                return raw
    return None


PLACES = (
    "image_url",
    "source",
    "input_audio",
    "audio_url",
    "audio",
    "file",
    "document_url",
    "image",
    "video_url",
)
CONTENT = ("url", "data", "file_data")


def _bytes(data: str) -> int:
    return len(data) * 3 // 4


def _of_file(data: str) -> int:
    """Tokens of a file: those of its pages, at most as many as its bytes can hold, and its bytes as text."""
    pages = min(MAX_PAGES, 1 + _bytes(data) // MIN_PAGE_BYTES) if data.startswith(PDF) else 1
    return pages * PAGE + len(data)


# --- formulas ------------------------------------------------------------------------------------------------


def formula_of(deployment: Deployment) -> Formula:
    """By the family of the model, wherever it is served; else by the provider; else the dearest of all."""
    name = (deployment.base_model or deployment.model).lower()
    for pattern, formula in FAMILIES:
        if pattern.search(name):
            return formula
    return PROVIDERS.get(deployment.provider, dearest)


def _tiles(base: int, tile: int) -> Formula:
    """OpenAI's: scaled down into 2048 x 2048, then to a short side of 768, in tiles of 512 x 512."""

    def tokens(size: Size, low: bool) -> int:
        if low:
            return base
        if size == LARGEST:
            return base + 8 * tile  # 2048 x 768, or any that is scaled to it
        width, height = _into(size, 2048)
        short = min(width, height)
        if short > 768:
            width, height = (-(-side * 768 // short) for side in (width, height))
        return base + tile * -(-width // 512) * -(-height // 512)

    return tokens


def _patches(thousandths: int, most: int = 1536) -> Formula:
    """OpenAI's newer one: patches of 32 x 32, at most so many, times a factor."""

    def tokens(size: Size, low: bool) -> int:
        patches = min(-(-size.width // 32) * -(-size.height // 32), most)
        return -(-patches * thousandths // 1000) + 1

    return tokens


def _into(size: Size, most: int) -> Size:
    """Scaled down, rounded up."""
    long = max(size)
    return size if long <= most else Size(*(-(-side * most // long) for side in size))


def _area(pixels_a_token: int, long_side: int, most: int) -> Formula:
    """By its area, once its long side is scaled down."""

    def tokens(size: Size, low: bool) -> int:
        width, height = _into(size, long_side)
        return min(-(-width * height // pixels_a_token) + width // 14 + height // 14 + 4, most)

    return tokens


def _flat(most: int) -> Formula:
    return lambda size, low: most


def dearest(size: Size, low: bool) -> int:
    """The most that any formula gives."""
    return max(formula(size, low) for formula in (MINI, ANTHROPIC, OPEN_MODELS, NANO))


MINI = _tiles(2833, 5667)
NANO = _patches(2460)
ANTHROPIC = _area(750, 2576, 5_000)
GEMINI = _flat(4_500)
OPEN_MODELS = _area(14 * 14, 4096, 16_384)
"""Models that anybody may serve: patches of 14 x 14, or larger ones."""

FAMILIES: tuple[tuple[re.Pattern[str], Formula], ...] = tuple(
    (re.compile(pattern), formula)
    for pattern, formula in (
        (r"gpt-4o-mini", MINI),
        (r"gpt-4\.1-mini|gpt-5(\.\d)?-mini", _patches(1620)),
        (r"gpt-4\.1-nano|gpt-5(\.\d)?-nano", NANO),
        (r"o4-mini", _patches(1720)),
        (r"gpt-5\.[4-9]", _patches(1200, 10_000)),
        (r"gpt-5", _tiles(85, 170)),
        (r"gpt-4o|gpt-4\.1|gpt-4\.5|gpt-4-turbo|chatgpt-4o", _tiles(85, 170)),
        (r"(^|[/.])o[1-9](-|$)", _tiles(75, 150)),
        (r"claude", ANTHROPIC),
        (r"gemini|gemma", GEMINI),
        (r"grok", _flat(2_000)),
        (r"pixtral|mistral-(small|medium|large)", _flat(4_500)),
        (r"llama-?4", _flat(7_000)),
        (r"command-a|aya", _flat(4_000)),
    )
)
PROVIDERS: Mapping[str, Formula] = {
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "mistral": _flat(4_500),
    "xai": _flat(2_000),
    "cohere": _flat(4_000),
    "groq": _flat(7_000),
    "together": OPEN_MODELS,
    "fireworks": OPEN_MODELS,
    "cerebras": OPEN_MODELS,
    "huggingface": OPEN_MODELS,
    "nvidia": OPEN_MODELS,
    "replicate": OPEN_MODELS,
    "ollama": OPEN_MODELS,
    "llamacpp": OPEN_MODELS,
    "lmstudio": OPEN_MODELS,
}
