"""Mask secrets and addresses in all text that leaves the proxy.

A `Mask` knows certain secrets and removes them in any usual form, whole or in part. `words` and `sentence` are what
may be shown of an upstream's text: cleaned by a mask, and of everything that looks like a key or an address.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from codellama_proxy.core.snapshot import Deployment, Secret, Snapshot

CREDENTIAL = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
"""Names of headers that carry one."""
REMOVED = "[removed]"
MIN_PART_CHARS = 8
"""A part of a secret of this length is removed too."""
MIN_PROSE_PART_CHARS = 24
"""The same for a secret of several words: shorter parts are ordinary language."""
MIN_SECRET_CHARS = 4
"""Shorter values are not masked, because that would make texts unreadable."""
MAX_SECRET_CHARS = 16_384
"""Of one secret, whose parts are removed."""
MAX_READ_CHARS = 4000
"""Of an upstream's text; the rest is dropped unread."""
UNCERTAIN_CHARS = 300
"""Dropped at the end of a truncated text, where part of a secret would not be recognised."""
MAX_SHOWN_CHARS = 1000
"""Of an upstream's text."""
MIN_TOKEN_CHARS = 20
"""A word of this length in a longer secret is masked on its own."""

Clean = Callable[[str], str]


class Mask:
    """Removes known secrets from text.

    Of `secrets`, every part of at least eight characters is removed, also in URL, JSON, HTML, hexadecimal and base64
    form. `literals` are removed where they stand whole. Both without regard to upper and lower case.
    """

    def __init__(self, secrets: Iterable[str], literals: Iterable[str] = ()) -> None:
        self._parts: dict[int, frozenset[str]] = {}
        whole: set[str] = set()
        tokens: set[str] = set()
        prose: set[str] = set()
        for secret in secrets:
            for token in _tokens(secret):
                (tokens if len(token) >= MIN_PART_CHARS else whole).add(token)
            if len(secret.split()) > 1:
                prose.add(secret)
        forms = [form for token in tokens for form in _forms(token[:MAX_SECRET_CHARS])]
        whole.update(form for form in forms if MIN_SECRET_CHARS <= len(form) < MIN_PART_CHARS)
        self._parts = {
            MIN_PART_CHARS: frozenset(part for form in forms for part in _parts(form, MIN_PART_CHARS)),
            MIN_PROSE_PART_CHARS: frozenset(
                part for text in prose for part in _parts(text[:MAX_SECRET_CHARS], MIN_PROSE_PART_CHARS)
            ),
        }
        for one in literals:
            if len(one) >= MIN_SECRET_CHARS:
                whole |= {one, quote(one, safe=""), json.dumps(one)[1:-1]}
        whole.update(text for text in prose if MIN_SECRET_CHARS <= len(text) < MIN_PROSE_PART_CHARS)
        ordered = sorted(whole, key=len, reverse=True)
        alternatives = "|".join(_standing_alone(one) for one in ordered)
        self._whole = re.compile(alternatives, re.IGNORECASE) if ordered else None

    def __call__(self, text: str) -> str:
        text = self._without_parts(text)
        return self._whole.sub(REMOVED, text) if self._whole is not None else text

    def _without_parts(self, text: str) -> str:
        lowered = _lowered(text)
        hidden = bytearray(len(text))
        for size, parts in self._parts.items():
            if parts:
                for start in range(len(text) - size + 1):
                    if lowered[start : start + size] in parts:
                        hidden[start : start + size] = b"\1" * size
        if not any(hidden):
            return text
        return "".join(_pieces(text, hidden))


def mask_for(deployment: Deployment, url: str = "", more: Iterable[str] = ()) -> Mask:
    """Masks the deployment's key, header values, addresses and the values substituted into its entry.

    `url` is the address of the request at hand, `more` what else it must not show.
    """
    secrets = {secret.reveal() for secret in deployment.secrets} | set(credentials(deployment))
    literals = {*deployment.headers.values(), *more}
    proxy = deployment.proxy.reveal().rpartition("@")[2] if deployment.proxy is not None else ""
    for address in filter(None, (deployment.base_url, url, f"http://{proxy}" if proxy else "")):
        literals.update(_address_forms(address))
    return _mask(frozenset(secrets), frozenset(literals))


def mask_of(snapshot: Snapshot) -> Mask:
    """Masks every secret of the configuration, for output that shows parts of it."""
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    secrets = {secret.reveal() for secret in snapshot.secrets}
    for deployment in (*enabled, *snapshot.disabled):
        secrets.update(credentials(deployment))
    secrets.update(proxy_credentials(snapshot.egress.proxy))
    if snapshot.tracking.promptlayer_key is not None:
        secrets.add(snapshot.tracking.promptlayer_key.reveal())
    return _mask(frozenset(secrets), frozenset())


def credentials(deployment: Deployment) -> Iterator[str]:
    """The entry's key, its credential headers, and its proxy's credentials."""
    if deployment.api_key is not None:
        yield deployment.api_key.reveal()
    yield from proxy_credentials(deployment.proxy)
    yield from (value for name, value in deployment.headers.items() if CREDENTIAL.search(name))


def proxy_credentials(proxy: Secret | None) -> Iterator[str]:
    """User and password of a proxy's URL, as written and as sent."""
    if proxy is None:
        return
    parts = urlsplit(proxy.reveal())
    if parts.password:
        user, password = unquote(parts.username or ""), unquote(parts.password)
        yield from (parts.password, password, f"{user}:{password}")


@lru_cache(maxsize=256)
def _mask(secrets: frozenset[str], literals: frozenset[str]) -> Mask:
    """Cached, because building a mask takes longer than using it."""
    return Mask(secrets, literals)


def masked(value: Any, clean: Clean) -> Any:
    """JSON with every text in it masked; field names are unchanged."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {name: masked(inner, clean) for name, inner in value.items()}
    return [masked(inner, clean) for inner in value] if isinstance(value, list | tuple) else value


def without_credentials(url: str) -> str:
    """An address without a user's name, password and query."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _address_forms(url: str) -> Iterator[str]:
    """The literals that would reveal an address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        yield url
        return
    yield from (url, url.partition("://")[2], parts.netloc)
    if len(parts.path) > 2 * MIN_PART_CHARS:
        yield parts.path
    if "." in host or ":" in host:
        yield host


def _pieces(text: str, hidden: bytearray) -> Iterator[str]:
    end = 0
    for match in re.finditer(b"\1+", hidden):
        yield text[end : match.start()]
        yield REMOVED
        end = match.end()
    yield text[end:]


def _tokens(secret: str) -> Iterator[str]:
    """The value itself; for one of several words, those that are secrets."""
    split = secret.split()
    least = MIN_PART_CHARS if len(split) <= 3 else MIN_TOKEN_CHARS
    if len(split) <= 1:
        least = MIN_SECRET_CHARS
    yield from (word for word in split if len(word) >= least)


def _standing_alone(text: str) -> str:
    """Not inside of a longer word, where its first and last character are a word's."""
    before = r"(?<![A-Za-z0-9])" if text[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])" if text[-1].isalnum() else ""
    return before + re.escape(text) + after


def _parts(text: str, size: int) -> Iterator[str]:
    lowered = _lowered(text)
    return (lowered[start : start + size] for start in range(len(text) - size + 1))


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def _lowered(text: str) -> str:
    """ASCII only, so that offsets do not change."""
    return text.translate(_LOWER)


def _forms(token: str) -> Iterator[str]:
    """The value in the usual encodings."""
    raw = token.encode(errors="surrogatepass")
    yield token
    yield quote(raw, safe="")
    yield quote_plus(raw, safe="/:")
    yield "".join(f"%{byte:02x}" for byte in raw)
    yield json.dumps(token)[1:-1]
    yield html.escape(token)
    yield raw.hex()
    for before in range(3):
        for alphabet in (b"+/", b"-_"):
            encoded = base64.b64encode(b"\0" * before + raw, alphabet).decode()
            # Only the characters that do not depend on text before or after the value.
            yield encoded[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]


# --- upstream texts ---------------------------------------------------------------------------------------------

_ADDRESS = r"\b(?:https?|wss?)://\S+|\b(?:[\w-]+\.)+[a-z]{2,}(?::\d+|/)\S*"
_HOST = r"\blocalhost\b\S*|\b\d{1,3}(?:\.\d{1,3}){3}\b\S*|\[[0-9a-f:]*:[0-9a-f:]*\]\S*"
_KEY = r"\bBearer\s+\S+|\b(?:[gc]?sk|key|hf|r8|fw|xai|pplx|nvapi)[-_][\w*.-]{6,}|\b(?=[\w-]*\d)[\w-]{32,}"
_LOOKS_SECRET = re.compile(f"{_ADDRESS}|{_HOST}|{_KEY}", re.IGNORECASE | re.ASCII)
_LOOKS_KEY = re.compile(_KEY, re.IGNORECASE | re.ASCII)
_MARKUP = re.compile(r"<[a-zA-Z!/?]")
_PAGE = re.compile(r"<(?:!doctype|html|head|body|script|style|iframe|svg)\b", re.IGNORECASE)
_TAG = re.compile(r"<[a-zA-Z!/?][^<>]*>")


def without_keys(text: str) -> str:
    """The text without what looks like a key."""
    return _LOOKS_KEY.sub(REMOVED, text)


def words(text: str, clean: Clean, limit: int = MAX_SHOWN_CHARS) -> str:
    """An upstream's text without markup, addresses or secrets, at most `limit` characters; empty for a page."""
    if _PAGE.search(text[:MAX_READ_CHARS]):
        return ""
    return _cut(_cleaned(text, clean), limit)


def sentence(text: str, clean: Clean = str, limit: int = 200) -> str:
    """At most its first sentence; empty for a text with markup."""
    if _MARKUP.search(text[:MAX_READ_CHARS]):
        return ""
    text = _cleaned(text, clean)
    end = re.search(r"[.!?](?=\s)", text)
    return _cut(text[: end.end()] if end else text, limit)


def _cleaned(text: str, clean: Clean) -> str:
    whole = len(text) <= MAX_READ_CHARS
    text = _MARKUP.sub(lambda found: f"< {found[0][1]}", _TAG.sub("", text[:MAX_READ_CHARS]))
    text = "".join(char for char in " ".join(text.split()) if char.isprintable())
    text = _LOOKS_SECRET.sub(REMOVED, clean(text))
    return text if whole else text[:-UNCERTAIN_CHARS]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
