"""Thinking blocks: whose they are, and the signature of those that are ours.

Anthropic accepts only blocks that it signed. Blocks made from the reasoning of other models get a signature of ours, so
that they are recognised when the client returns them; of a block that is shown empty, it has the text, sealed.
(docs.anthropic.com/en/docs/build-with-claude/extended-thinking)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from codellama_proxy.inbound.sealed import PREFIX, Seals, is_sealed


def signature_of(text: str, seals: Seals | None = None) -> str:
    """The signature of a block with this reasoning; with `seals`, of one that is shown without its text."""
    if seals is not None:
        return seals.seal({"reasoning": text})
    return PREFIX + hashlib.sha256(text.encode()).hexdigest()[:16]


def is_foreign(block: Mapping[str, Any]) -> bool:
    """Whether a block was signed by the provider of its model."""
    if block.get("type") == "redacted_thinking":
        return bool(block.get("data"))
    signature = block.get("signature")
    return isinstance(signature, str) and signature != "" and not is_sealed(signature)


def own_text(block: Mapping[str, Any], seals: Seals | None) -> str:
    """The reasoning in a block that is ours or not signed; empty if it is sealed and cannot be opened."""
    text, signature = block.get("thinking"), block.get("signature")
    if isinstance(text, str) and text:
        return text
    content = seals.open(signature) if seals is not None and isinstance(signature, str) else None
    reasoning = content.get("reasoning") if content is not None else None
    return reasoning if isinstance(reasoning, str) else ""
