"""The headers of a request, and what they decide about its caller, session and body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.request import label

JSON = b"application/json"
NO_BEARER = "-"
"""The credential of a scheme other than Bearer: it matches no key."""
KEY_HEADERS = frozenset({b"x-api-key", b"api-key"})
CREDENTIAL_HEADERS = KEY_HEADERS | {b"authorization"}
"""Those that `credential` reads."""
HINTS = (b"traceparent", b"tracestate")
SESSION_HEADERS = (b"x-claude-code-session-id", b"x-session-id", b"session-id", b"session_id")
"""Headers with the id of the client's session, the first one given counts (Claude Code, opencode, Codex)."""
AGENT_HEADER = b"x-claude-code-agent-id"
_LABELS = frozenset({*SESSION_HEADERS, AGENT_HEADER})


def credential(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The secret of a request, from `Authorization: Bearer`, `x-api-key` or `api-key`; `None` without one.

    Some clients send both of the first two, and `Bearer undefined` when they have only the second. Two
    `Authorization` headers are refused: a reverse proxy may have checked the other one.
    """
    bearer: str | None = None
    plain: str | None = None
    for name, value in headers:
        if name == b"authorization":
            if bearer is not None:
                raise ProxyError(
                    "invalid_value", "There is more than one Authorization header.", param="authorization"
                )
            kind, _, rest = value.decode("latin-1").partition(" ")
            bearer = rest.strip() if kind.lower() in ("bearer", "") else NO_BEARER
        elif name in KEY_HEADERS:
            plain = plain or value.decode("latin-1").strip()
    if bearer and (bearer not in (NO_BEARER, "undefined", "null") or not plain):
        return bearer
    return plain or None


def check_body_kind(fields: Mapping[bytes, bytes], wanted: bytes = JSON) -> None:
    """Raises `ProxyError` 415 for a body that is compressed, or of another media type."""
    encoding = fields.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b""):
        raise ProxyError("unsupported_content_encoding", "Request bodies must not be compressed.")
    kind = fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != wanted and not (wanted is JSON and kind.endswith(b"+json")):
        raise ProxyError("unsupported_media_type", f"The content type must be {wanted.decode()}.")


class ClientHeaders:
    """What the headers of an inference request decide, worked out at most once.

    Requests that differ only in their content length may share one, so it does not have the length.
    """

    __slots__ = ("_by_name", "_credential", "_is_body_checked", "_pairs", "_session", "_text")

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """`pairs`: names in lower case, and values as received."""
        self._pairs = tuple(pairs)
        self._by_name = dict(self._pairs)
        """Of repeated ones, the last."""
        self._credential: tuple[str | None] | None = None
        self._session: tuple[str | None, str | None] | None = None
        self._is_body_checked = False
        self._text: Mapping[str, str] | None = None

    def with_credential(self, at: int, header: tuple[bytes, bytes]) -> ClientHeaders:
        """The same headers with another value of the only credential. `at`: its index."""
        other = ClientHeaders((*self._pairs[:at], header, *self._pairs[at + 1 :]))
        other._session, other._is_body_checked = self._session, self._is_body_checked
        return other

    def credential(self) -> str | None:
        """As the function. Raises `ProxyError`."""
        if self._credential is None:
            self._credential = (credential(self._pairs),)
        return self._credential[0]

    def session(self) -> tuple[str | None, str | None]:
        """The ids of the client's session and of its agent."""
        if self._session is None:
            self._session = self._labels()
        return self._session

    def check_body_kind(self) -> None:
        """As the function, for JSON. Raises `ProxyError`."""
        if not self._is_body_checked:
            check_body_kind(self._by_name)
            self._is_body_checked = True

    def cache_control(self) -> str:
        """All of `Cache-Control`; empty for none."""
        if b"cache-control" not in self._by_name:
            return ""
        return ",".join([v.decode("latin-1") for n, v in self._pairs if n == b"cache-control"])

    def as_text(self) -> Mapping[str, str]:
        """All of them by name; of repeated ones, the last. Of requests that share this, the first one's length."""
        if self._text is None:
            self._text = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._pairs}
        return self._text

    def hints(self) -> dict[str, str]:
        """Those with tracking metadata."""
        return {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in self._pairs
            if name in HINTS or name.startswith(b"x-promptlayer-")
        }

    def _labels(self) -> tuple[str | None, str | None]:
        given = self._by_name
        if _LABELS.isdisjoint(given):
            return None, None
        session = next((found for name in SESSION_HEADERS if (found := _label(given.get(name)))), None)
        return session, _label(given.get(AGENT_HEADER))


def _label(value: bytes | None) -> str | None:
    return None if value is None else label(value.decode("latin-1"))
