"""Whether a change was sent by our own page, so that other sites cannot use a visitor's session."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def refusal(headers: Mapping[str, str]) -> str | None:
    """Why a POST is refused, in a sentence; `None` if it comes from our own page.

    Browsers send `Sec-Fetch-Site` to https and localhost, and `Origin` everywhere; the latter has to be this host.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site == "same-origin":
            return None
        return f"The browser says that this was sent by another site (Sec-Fetch-Site: {_word(site)})."
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is None:
        return "The browser sent neither Sec-Fetch-Site nor Origin, so it is unknown which site sent this."
    if origin == "null":
        return "The browser hides which site sent this (Origin: null)."
    if _same_host(origin, host):
        return None
    return (
        f"This was sent by {_word(origin)}, but the proxy is addressed as {_word(host)}. If a reverse proxy is in "
        "front, it must pass the Host header on unchanged (nginx: proxy_set_header Host $http_host;)."
    )


def _same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    usual = _DEFAULT_PORTS.get(parts.scheme, "")
    return bool(parts.netloc) and _bare(parts.netloc, usual) == _bare(host, usual)


def _bare(host: str, usual: str) -> str:
    return host.lower().removesuffix(usual) if usual else host.lower()


def _word(text: str) -> str:
    return text[:200]
