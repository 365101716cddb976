"""Pictures, sounds and files: what they can take at most, by their pixels, seconds and pages."""

import base64
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.tokens import media
from codellama_proxy.tokens.pixels import Size, size_of, size_of_base64
from tests.support.builders import deployment

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x06\x00\x00\x00"
GIF = b"GIF89a" + struct.pack("<HH", 640, 480)
EXIF = b"\xff\xe1" + struct.pack(">H", 60_002) + bytes(60_000)
JPEG = b"\xff\xd8" + EXIF + b"\xff\xff\xc2" + struct.pack(">HBHH", 11, 8, 480, 640)
VP8 = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 480)
VP8L = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 639 | 479 << 14)
VP8X = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
KINDS = {"png": PNG, "gif": GIF, "jpeg": JPEG, "vp8": VP8, "vp8l": VP8L, "vp8x": VP8X}


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_format_has_its_size(kind: str) -> None:
    assert size_of_base64(encoded(KINDS[kind] + bytes(9))) == Size(640, 480)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_damaged_header_gives_a_size_or_none(kind: str, data: st.DataObject) -> None:
    raw = bytearray(KINDS[kind][:80])
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=5)):
        raw[at] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for found in (size_of(cut), size_of_base64(encoded(cut))):
        assert found is None or (found.width > 0 and found.height > 0)


@given(st.text(max_size=40) | st.binary(max_size=60).map(encoded))
def test_other_data_has_no_size(text: str) -> None:
    size_of_base64(text)
    assert size_of_base64("%" + text) is None


# --- formulas ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "low", "tokens"),
    [
        ("gpt-4o-mini", media.MAX_SIZE, False, 48_169),
        ("gpt-4o-mini", Size(1, 1), False, 8_500),
        ("gpt-4o-mini", media.MAX_SIZE, True, 2_833),
        ("gpt-4o", Size(1024, 1024), False, 765),
        ("gpt-4o", Size(2048, 4096), False, 1105),
        ("gpt-4o", Size(300, 200), False, 255),
        ("gpt-4.1-mini", media.MAX_SIZE, False, 2490),
    ],
)
def test_openais_formulas_match_their_documentation(name: str, size: Size, low: bool, tokens: int) -> None:
    assert media.formula_of(deployment(provider="openai", model=name))(size, low) == tokens


def test_claude_counts_by_area() -> None:
    formula = media.formula_of(deployment(provider="anthropic", model="claude-sonnet-4-5"))
    assert 1590 <= formula(Size(1092, 1092), False) <= 1800
    assert formula(media.MAX_SIZE, False) <= 5000


ALL = [
    *[deployment(provider=name) for name in (*media.PROVIDERS, "openai", "azure", "openrouter", "vllm")],
    *[deployment(model=name) for name in ("gpt-4o-mini", "gpt-5-nano", "o3", "gemini-2.5-pro", "x/grok-4")],
]


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.sampled_from(ALL), st.booleans())
def test_the_bound_of_an_unknown_image_covers_known_ones(
    width: int, height: int, one: Any, low: bool
) -> None:
    formula = media.formula_of(one)
    assert 0 < formula(Size(width, height), low) <= formula(media.MAX_SIZE, low) <= 48_169


# --- parts ---------------------------------------------------------------------------------------------------

SMALL = encoded(PNG)
URL = f"data:image/png;base64,{SMALL}"
SENT: tuple[dict[str, Any], ...] = (
    {"type": "image_url", "image_url": {"url": URL}},
    {"type": "image_url", "image_url": URL},
    {"type": "input_image", "image_url": URL},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": SMALL}},
    {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": SMALL}}]},
)
NAMED: tuple[dict[str, Any], ...] = (
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    {"type": "input_image", "file_id": "file-1"},
    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,broken"}},
    {"type": "image_url"},
)


def found(*parts: dict[str, Any]) -> tuple[list[media.Media], int]:
    return media.media_in([{"role": "user", "content": list(parts)}])


@pytest.mark.parametrize("part", SENT)
def test_an_inline_image_is_counted_by_its_pixels(part: dict[str, Any]) -> None:
    (one,), length = found(part)
    assert (one.kind, one.size, length) == ("picture", Size(640, 480), len(SMALL))


@pytest.mark.parametrize("part", NAMED)
def test_an_image_url_has_the_providers_maximum_size(part: dict[str, Any]) -> None:
    (one,), _ = found(part)
    assert one.size == media.MAX_SIZE
    assert media.bound([one], deployment(provider="openai", model="gpt-4o-mini")) == 48_169


def test_audio_is_bounded_by_its_duration() -> None:
    data = encoded(bytes(32_000))
    (one,), length = found({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    assert length == len(data)
    assert 32 <= one.tokens < 5_000
    (far,), _ = found({"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}})
    assert far.tokens > 1_000_000


def test_a_file_is_bounded_by_its_pages() -> None:
    data = encoded(b"%PDF-1.7" + bytes(1000))
    for part in (
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}"}},
        {"type": "document", "source": {"type": "base64", "data": data}},
    ):
        (one,), _ = found(part)
        assert 50 * media.PAGE_TOKENS < one.tokens <= media.MAX_PAGES * media.PAGE_TOKENS
    (by_id,), _ = found({"type": "file", "file": {"file_id": "file-1"}})
    assert by_id.tokens == media.MAX_PAGES * media.PAGE_TOKENS
    (text,), _ = found({"type": "document", "source": {"type": "text", "data": "x" * 9000}})
    assert text.tokens >= 9000


json = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(["image_url", "file", "text", URL]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "image_url", "url", "source", "data", "file", "content", "detail"]),
            inner,
        )
    ),
    max_leaves=15,
)


@given(st.lists(st.fixed_dictionaries({"content": json}), max_size=3))
def test_arbitrary_parts_have_a_bound(messages: list[dict[str, Any]]) -> None:
    brought, length = media.media_in(messages)
    assert length >= 0
    assert media.bound(brought, deployment()) >= 0
