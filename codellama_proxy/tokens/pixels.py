"""Reads the width and height of an image from the first bytes of its file. Pure; `None` for anything else.

PNG, JPEG, GIF and WebP, the formats of the providers, detected from the bytes and not from the client's media type.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import NamedTuple

HEAD_BYTES = 64
"""Bytes that contain the size in all formats but JPEG."""
MAX_JPEG_HEAD_BYTES = 512 << 10
"""Bytes of a JPEG that are searched: thumbnails and profiles precede its size."""
MAX_SEGMENTS = 500


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


def size_of_base64(data: str) -> Size | None:
    """The size of an image file in base64, or `None`."""
    head = _decoded(data, HEAD_BYTES)
    if head.startswith(b"\xff\xd8"):
        return _jpeg(_decoded(data, MAX_JPEG_HEAD_BYTES))
    return size_of(head)


def _decoded(data: str, most: int) -> bytes:
    """The first decoded bytes; empty if they are not base64."""
    piece = data[: -(-most // 3) * 4]
    try:
        return base64.b64decode(piece + "=" * (-len(piece) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def size_of(head: bytes) -> Size | None:
    """The size of an image from the beginning of its file, or `None`."""
    try:
        found = _size(head)
    except (struct.error, IndexError):
        return None
    return found if found is not None and found.width > 0 and found.height > 0 else None


def _size(head: bytes) -> Size | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return Size(*struct.unpack_from(">II", head, 16))
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Size(*struct.unpack_from("<HH", head, 6))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(head)
    return _jpeg(head) if head.startswith(b"\xff\xd8") else None


def _webp(head: bytes) -> Size | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return Size(*(1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27)))
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return Size(width & 0x3FFF, height & 0x3FFF)
    return None


def _jpeg(head: bytes) -> Size | None:
    """The size in the first frame segment of a JPEG."""
    at = 2
    try:
        for _ in range(MAX_SEGMENTS):
            if head[at] != 0xFF:
                return None
            marker = head[at + 1]
            if marker == 0xFF:  # fill byte
                at += 1
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", head, at + 5)
                return Size(width, height) if width and height else None
            else:
                at += 2 + max(struct.unpack_from(">H", head, at + 2)[0], 2)
    except (struct.error, IndexError):
        pass
    return None
