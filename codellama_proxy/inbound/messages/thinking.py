"""Thinking blocks: whose they are, and the signature of those that are ours.

Anthropic accepts only blocks that it signed. Blocks made from the reasoning of other models get a signature of ours, so
that they are recognised when the client returns them; it holds the text of a block that is shown empty.
(docs.anthropic.com/en/docs/build-with-claude/extended-thinking)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from codellama_proxy.openai_format.request import OWN_SIGNATURE

_HIDDEN = "t."


def signature_of(text: str, *, hidden: bool) -> str:
    """The signature of a block with this reasoning; with the whole text if the block is shown without it."""
    if hidden:
        return f"{OWN_SIGNATURE}{_HIDDEN}{base64.urlsafe_b64encode(text.encode()).decode()}"
    return OWN_SIGNATURE + hashlib.sha256(text.encode()).hexdigest()[:16]


def is_foreign(block: Mapping[str, Any]) -> bool:
    """Whether a block was signed by the provider of its model."""
    if block.get("type") == "redacted_thinking":
        return bool(block.get("data"))
    signature = block.get("signature")
    return isinstance(signature, str) and signature != "" and not signature.startswith(OWN_SIGNATURE)


def own_text(block: Mapping[str, Any]) -> str:
    """The reasoning in a block that is ours or not signed."""
    text = block.get("thinking")
    if isinstance(text, str) and text:
        return text
    signature = block.get("signature")
    if not isinstance(signature, str) or not signature.startswith(OWN_SIGNATURE + _HIDDEN):
        return ""
    try:
        return base64.urlsafe_b64decode(signature[len(OWN_SIGNATURE + _HIDDEN) :]).decode()
    except (binascii.Error, ValueError):
        return ""
