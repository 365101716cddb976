"""Reasoning that clients keep for the proxy, sealed so that a changed or foreign copy is recognised.

It is signed, not encrypted: the client has seen the text. A seal holds within one project, so that signatures of one
project's answers cannot be replayed in another. Pure; the key is the caller's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from codellama_proxy.openai_format.request import OWN_SIGNATURE

PREFIX = OWN_SIGNATURE
"""How everything sealed here begins. Providers' own encrypted reasoning never does."""
_MAC_BYTES = hashlib.sha256().digest_size


class Seals(NamedTuple):
    """Seals and opens for one project."""

    key: bytes
    """The installation's."""
    project: str

    def seal(self, content: Mapping[str, Any]) -> str:
        """The content, sealed."""
        return seal(self.key, self.project, content)

    def open(self, sealed: str) -> Mapping[str, Any] | None:
        """The content; `None` if it was not sealed by this installation for this project."""
        return open_sealed(self.key, self.project, sealed)


def seal_key(installation_key: bytes) -> bytes:
    """The key for seals, derived from the one that the database holds for all purposes."""
    return hmac.digest(installation_key, b"sealed reasoning", "sha256")


def seal(key: bytes, project: str, content: Mapping[str, Any]) -> str:
    """`PREFIX` and the base64 of a MAC over project and content, followed by the content as JSON."""
    data = orjson.dumps(content)
    return PREFIX + base64.b64encode(_mac(key, project, data) + data).decode()


def open_sealed(key: bytes, project: str, sealed: str) -> Mapping[str, Any] | None:
    """The content; `None` if it was not sealed with this key for this project, or was changed since."""
    if not is_sealed(sealed):
        return None
    try:
        decoded = base64.b64decode(sealed[len(PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        return None
    mac, data = decoded[:_MAC_BYTES], decoded[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, project, data)):
        return None
    content: Mapping[str, Any] = orjson.loads(data)
    return content


def is_sealed(text: str) -> bool:
    """Whether it claims to be sealed here; `open_sealed` verifies that."""
    return text.startswith(PREFIX)


def _mac(key: bytes, project: str, data: bytes) -> bytes:
    name = project.encode("utf-8", "surrogatepass")
    return hmac.digest(key, PREFIX.encode() + len(name).to_bytes(4, "big") + name + data, "sha256")
