"""How upstreams are reached, as proxy.yaml says it: an HTTP proxy, and certificates to trust besides the system's."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from codellama_proxy.config.field_types import Scalar, refuse
from codellama_proxy.config.yaml.document import plain
from codellama_proxy.config.yaml.substitution import read_regular, reason
from codellama_proxy.core.snapshot import Bundle, Secret

MOST_CERTIFICATES = 4 << 20
"""Bytes of a bundle."""


def _proxy(value: Any) -> Secret | Literal[False] | None:
    if value is None or plain(value) is False:
        return None if value is None else False
    if not isinstance(value, str):
        refuse("expected a URL such as http://proxy.example:3128, or false for none")
    found = str(value).strip()
    return Secret(_checked(found)) if found else None


def _checked(found: str) -> str:
    try:
        parts = urlsplit(found)
        valid = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[\x21-\x7e]+", found) or "\\" in found:
        refuse("expected a URL such as http://proxy.example:3128; proxies are spoken to by http:// only")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        refuse("a proxy's URL must not have a path, query or fragment")
    return found.rstrip("/")


def _bundle(value: Any) -> Bundle | None:
    if value is None:
        return None
    if not isinstance(value, str):
        refuse("expected the path of a file with certificates (PEM)")
    path = str(value).strip()
    if not path:
        return None
    try:
        certificates = read_regular(Path(path), MOST_CERTIFICATES).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        refuse(f"cannot be read: {reason(error)}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        refuse("holds no certificates that can be read (PEM)")
    return Bundle(path, certificates)


PROXY = Scalar(_proxy, {"anyOf": [{"type": "string"}, {"const": False}, {"type": "null"}]})
CA_BUNDLE = Scalar(_bundle, {"anyOf": [{"type": "string"}, {"type": "null"}]})
