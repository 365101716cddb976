"""Counts tokens."""

from __future__ import annotations


def estimate(text: str) -> int:
    """Tokens of `text` without a tokenizer, near enough for logs and rehearsals."""
    if not text:
        return 0
    if text.isascii():
        return max(1, -(-len(text) // 4))
    return max(1, round(sum(_weight(ord(char)) for char in text)))


def _weight(code: int) -> float:
    if code < 128:
        return 0.25
    if 0x2E80 <= code <= 0xD7FF or 0xF900 <= code <= 0xFAFF or 0xFF00 <= code <= 0xFFEF:
        return 0.75
    return 2.0 if code > 0xFFFF else 0.3
