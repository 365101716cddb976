"""Values of proxy.yaml that are about the network: URLs, headers, an HTTP proxy, certificates to trust."""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from codellama_proxy.config.field_types import Scalar, mapping, read_text, refuse
from codellama_proxy.config.yaml.scalars import plain
from codellama_proxy.config.yaml.substitution import read_regular, reason
from codellama_proxy.core.snapshot import Bundle, Secret

MAX_BUNDLE_BYTES = 4 << 20

_HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_OWN_HEADERS = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding"}


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
        refuse("expected a URL such as http://proxy.example:3128; proxies are supported over http:// only")
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
        content = read_regular(Path(path), MAX_BUNDLE_BYTES)
    except (OSError, ValueError) as error:
        refuse(f"cannot be read: {reason(error)}")
    certificates = content.decode("ascii", "ignore")  # comments between the certificates may be anything
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        refuse("holds no certificates that can be read (PEM)")
    return Bundle(path, certificates)


PROXY = Scalar(_proxy, {"anyOf": [{"type": "string"}, {"const": False}, {"type": "null"}]})
CA_BUNDLE = Scalar(_bundle, {"anyOf": [{"type": "string"}, {"type": "null"}]})


def _url(value: Any) -> str:
    found = read_text(value)
    try:
        parts = urlsplit(found)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[\x21-\x7e]+", found) or "\\" in found:
        refuse("expected a URL such as https://api.example.com/v1")
    if "@" in parts.netloc:
        refuse("a URL must not carry a user name or password; use api_key or headers")
    if parts.query or parts.fragment or found.endswith(("?", "#")):
        refuse("a URL must not have a query or fragment")
    return found.rstrip("/")


URL = Scalar(_url, {"type": "string", "pattern": "^https?://[^@?#\\s]+$"})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") in ("localhost", "ip6-localhost")


def is_private(url: str) -> bool:
    """Whether plain http may go there: this machine, or a network that is not the internet."""
    host = (urlsplit(url).hostname or "").removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        by_name = host.endswith((".local", ".internal", ".localhost")) or "." not in host
        # A name of digits only is an IPv4 address to resolvers.
        return by_name and re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host) is None
    return any(address in network for network in _PRIVATE if network.version == address.version)


_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


def _headers(value: Any) -> dict[str, str]:
    given = {name: content for name, content in mapping(value).items() if content is not None}
    found = {str(name).lower(): _header(name, content) for name, content in given.items()}
    if len(found) != len(given):
        refuse("two headers differ only in upper and lower case")
    return found


def _header(name: str, content: Any) -> str:
    if not re.fullmatch(_HEADER, name):
        refuse("a header name has letters, digits and -")
    if name.lower() in _OWN_HEADERS:
        refuse(f"header {name.lower()} cannot be set")
    if not isinstance(content, str) or not re.fullmatch(r"[\t\x20-\x7e]*", content):
        refuse(f"header {name.lower()}: expected text of printable ASCII; quote it if it looks like a number")
    return str(content).strip()


HEADERS = Scalar(_headers, {"type": "object", "additionalProperties": {"type": "string"}})
