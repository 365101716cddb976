"""Upper bounds of the tokens of images, audio and files in a chat, by each provider's formula. Pure.

Embedded media are bounded by their pixels, pages or seconds, not by the length of their base64. Media given by a URL
or a file id are bounded by the largest that the provider accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.tokens.pixels import Size, size_of_base64

MAX_SIZE = Size(100_000, 100_000)
"""Used for images of unknown size: every formula reaches its maximum below this size."""
PAGE_TOKENS = 6_000
"""Tokens of a page, as an image and as text."""
MAX_PAGES = 100
"""Maximum number of pages of a file at most providers."""
PDF_PREFIX = "JVBERi"
"""The beginning of a PDF in base64."""
MIN_PAGE_BYTES = 20
"""Minimum size of a compressed page in a PDF."""
MIN_BYTES_PER_SECOND = 500
"""Minimum size of a second of audio: no supported codec goes below 4 kbit/s."""
MAX_TOKENS_PER_SECOND = 32
"""Tokens per second of audio, at the provider that counts most."""
MAX_SOUND_SECONDS = 10 * 3600
"""Maximum duration of audio given by a URL."""
OTHER_PART_TOKENS = 10_000
"""Tokens of a part of unknown type, in addition to its bytes."""

PICTURES = frozenset({"image_url", "image", "input_image"})
SOUNDS = frozenset({"input_audio", "audio", "audio_url"})
FILES = frozenset({"file", "input_file", "document", "document_url"})
MOVING = frozenset({"video_url", "video", "input_video"})
TEXTS = frozenset(
    {"text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning"}
)
BASE64 = re.compile(r"\s*data:([\w.+/-]*)[^,]{0,200};base64,", re.IGNORECASE)


class Media(NamedTuple):
    """One image, audio or file part of a chat."""

    kind: str
    """`picture`, `sound`, `pages` or `other`."""
    size: Size = MAX_SIZE
    low: bool = False
    """Whether the client requested low detail."""
    tokens: int = 0
    """Maximum tokens, except for images, whose tokens depend on the deployment."""


Formula = Callable[[Size, bool], int]


def media_in(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Media], int]:
    """The media in the messages, and the number of bytes of their base64."""
    media: list[Media] = []
    encoded = 0
    if not [one for one in messages if type(one.get("content")) is not str]:
        return media, encoded
    for part in _parts(messages):
        one, length = _media(part)
        if one is not None:
            media.append(one)
            encoded += length
    return media, encoded


def _parts(messages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All content parts, including nested ones."""
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
    """Maximum number of tokens of `media` at a deployment."""
    formula = formula_of(deployment)
    return sum(formula(one.size, one.low) if one.kind == "picture" else one.tokens for one in media)


# --- what a part is ------------------------------------------------------------------------------------------


def _media(part: Mapping[str, Any]) -> tuple[Media | None, int]:
    kind = part.get("type")
    if not isinstance(kind, str):
        return Media("other", tokens=OTHER_PART_TOKENS), 0
    if kind in TEXTS or (kind == "tool_result" and "content" in part):
        return None, 0
    if kind in PICTURES:
        return _picture(part)
    data = _data(part)
    if kind in SOUNDS:
        seconds = MAX_SOUND_SECONDS if data is None else _bytes(data) // MIN_BYTES_PER_SECOND + 1
        return Media("sound", tokens=seconds * MAX_TOKENS_PER_SECOND), len(data or "")
    if kind in FILES:
        return Media("pages", tokens=MAX_PAGES * PAGE_TOKENS if data is None else _of_file(data)), len(
            data or ""
        )
    if kind in MOVING:
        return Media("pages", tokens=MAX_PAGES * PAGE_TOKENS), len(data or "")
    return Media("other", tokens=OTHER_PART_TOKENS), 0


def _picture(part: Mapping[str, Any]) -> tuple[Media, int]:
    data = _data(part)
    inner = part.get("image_url")
    detail = inner.get("detail") if isinstance(inner, Mapping) else part.get("detail")
    size = None if data is None else size_of_base64(data)
    return Media("picture", size or MAX_SIZE, low=detail == "low"), len(data or "")


def _data(part: Mapping[str, Any]) -> str | None:
    """The base64 or text embedded in a part; `None` if the part has a URL or a file id."""
    objects = [part, *[one for name in CONTAINERS if isinstance(one := part.get(name), Mapping)]]
    texts = [str(one[name]) for one in objects for name in CONTENT_FIELDS if isinstance(one.get(name), str)]
    texts += [str(part[name]) for name in CONTAINERS if isinstance(part.get(name), str)]
    for one in texts:
        if (head := BASE64.match(one[:400])) is not None:
            return one[head.end() :]
    for one in objects:
        for name in ("data", "file_data"):
            raw = one.get(name)
            if isinstance(raw, str):
                return raw
    return None


CONTAINERS = (
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
CONTENT_FIELDS = ("url", "data", "file_data")


def _bytes(data: str) -> int:
    return len(data) * 3 // 4


def _of_file(data: str) -> int:
    """Maximum tokens of a file: of as many pages as its size permits, and of its bytes as text."""
    pages = min(MAX_PAGES, 1 + _bytes(data) // MIN_PAGE_BYTES) if data.startswith(PDF_PREFIX) else 1
    return pages * PAGE_TOKENS + len(data)


# --- formulas ------------------------------------------------------------------------------------------------


def formula_of(deployment: Deployment) -> Formula:
    """The formula of the model's family, else of the provider, else the maximum of all formulas."""
    name = (deployment.base_model or deployment.model).lower()
    for pattern, formula in FAMILIES:
        if pattern.search(name):
            return formula
    return PROVIDERS.get(deployment.provider, dearest)


def _tiles(base: int, tile: int) -> Formula:
    """OpenAI: scaled down to 2048 x 2048, then to a short side of 768; tiles of 512 x 512."""

    def tokens(size: Size, low: bool) -> int:
        if low:
            return base
        if size == MAX_SIZE:
            return base + 8 * tile  # 2048 x 768, the largest after scaling
        width, height = _into(size, 2048)
        short = min(width, height)
        if short > 768:
            width, height = (-(-side * 768 // short) for side in (width, height))
        return base + tile * -(-width // 512) * -(-height // 512)

    return tokens


def _patches(thousandths: int, most: int = 1536) -> Formula:
    """OpenAI's newer models: patches of 32 x 32, at most `most`, times a factor in thousandths."""

    def tokens(size: Size, low: bool) -> int:
        patches = min(-(-size.width // 32) * -(-size.height // 32), most)
        return -(-patches * thousandths // 1000) + 1

    return tokens


def _into(size: Size, most: int) -> Size:
    """The size scaled down to a long side of `most`, rounded up."""
    long = max(size)
    return size if long <= most else Size(*(-(-side * most // long) for side in size))


def _area(pixels_a_token: int, long_side: int, most: int) -> Formula:
    """Proportional to the area after scaling down the long side; at most `most`."""

    def tokens(size: Size, low: bool) -> int:
        width, height = _into(size, long_side)
        return min(-(-width * height // pixels_a_token) + width // 14 + height // 14 + 4, most)

    return tokens


def _flat(most: int) -> Formula:
    return lambda size, low: most


def dearest(size: Size, low: bool) -> int:
    """The maximum of all formulas."""
    return max(formula(size, low) for formula in (MINI, ANTHROPIC, OPEN_MODELS, NANO))


MINI = _tiles(2833, 5667)
NANO = _patches(2460)
ANTHROPIC = _area(750, 2576, 5_000)
GEMINI = _flat(4_500)
OPEN_MODELS = _area(14 * 14, 4096, 16_384)
"""Open models: patches of 14 x 14 or larger."""

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
