"""Reads the database setting: the path of a SQLite file, or the address of a PostgreSQL server.

An address may contain a password, so no message repeats one: only its host and database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from codellama_proxy.store.errors import StoreError

DEFAULT_DATABASE = "data/proxy.db"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/|(?:file|sqlite):", re.IGNORECASE)
_CREDENTIALS = re.compile(
    r"[^/]*:[^/]*@|(?:.*\s)?(?:password|passfile|host|dbname|user)\s*=", re.IGNORECASE | re.DOTALL
)
_POSTGRES = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
_SQLITE = re.compile(r"sqlite:///(?!/?$)", re.IGNORECASE)
_HOSTS = re.compile(r"(?:(?:\[[^\[\]@]+\]|[^\[\]@:,]*)(?::\d*)?(?:,|$))*")
_RESERVED_IN_NAME = re.compile("[/@=;]")
"""Not in the name of a database unless percent-encoded: part of a password that was not encoded, perhaps."""
_SECRET_OPTIONS = ("password", "sslpassword")
KNOWN = ("postgresql", "postgres", "mysql", "mariadb", "sqlite", "mongodb", "redis", "file", "http", "https")
"""Schemes that the error message may name; any other word could be part of a password."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A database on a PostgreSQL server. Its text form is the host and the name of the database."""

    url: str = field(repr=False)
    """For the driver; may contain the password."""
    label: str
    prepare: bool = True
    """Whether statements may be prepared; not through a pooler without support for it."""
    password_file: Path | None = None

    def password(self) -> str | None:
        """The content of `password_file`, read for every connection. Raises `StoreError`."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeError):
            raise StoreError(f"the file with the password of the database {self} cannot be read") from None

    def __str__(self) -> str:
        return self.label

    def masked(self, text: str) -> str:
        """The text without the password, wherever it may have come from."""
        for secret in _secrets_of(self.url):
            text = text.replace(secret, "***")
        return text


Location = Path | ServerAddress


def database_location(given: str, password_file: Path | None = None) -> Location:
    """The database in a setting: a path, `sqlite:///path`, or `postgresql://…` (then with a file for the password).

    Raises `StoreError` for any other address; the message contains nothing of it except a well-known scheme.
    """
    text = _unquoted(given)
    if _POSTGRES.match(text):
        return replace(_server(text), password_file=password_file)
    if _SQLITE.match(text):
        return Path(unquote(text[len("sqlite:///") :]))
    return _file(given, text, "the database must be a file or a postgresql:// address")


def database_file(given: str) -> Path:
    """The path of a database file in an option. Raises `StoreError` for an address, without repeating it."""
    return _file(given, _unquoted(given), "the database must be a file")


def _unquoted(given: str) -> str:
    return given.strip().strip("'\"").strip()


def _file(given: str, text: str, rule: str) -> Path:
    if "://" not in text and not _SCHEME.match(text) and not _CREDENTIALS.match(text):
        return Path(given)
    scheme = re.split(r"[:+]", text, maxsplit=1)[0].lower()
    what = f"{scheme}:// is not supported" if scheme in KNOWN else "addresses are not supported"
    raise StoreError(f"{rule}: {what} (a path such as data/proxy.db)")


def _server(text: str) -> ServerAddress:
    try:
        parts = urlsplit(text)
        options = _options(parts)
    except ValueError:
        raise StoreError(_MALFORMED) from None
    written = parts.path.removeprefix("/")
    name = unquote(written) or options.get("dbname", "")
    hosts = parts.netloc.rpartition("@")[2]
    if (
        not name
        or _RESERVED_IN_NAME.search(written)
        or parts.netloc.count("@") > 1
        or not _HOSTS.fullmatch(hosts)
        or parts.fragment
        or any(ord(letter) < 32 for letter in text)
    ):
        raise StoreError(_MALFORMED)
    prepare = options.pop("prepare", "on").lower() not in {"off", "0", "false"}
    hosts = unquote(hosts or options.get("host", ""))
    where = "local socket" if not hosts or hosts.startswith("/") else hosts
    query = urlencode(options, quote_via=quote)
    return ServerAddress(
        _with_netloc(parts._replace(scheme="postgresql", query=query).geturl()), f"{name} on {where}", prepare
    )


def _options(parts: SplitResult) -> dict[str, str]:
    """The options of an address; a plus sign is one, as for the driver. Raises `ValueError`."""
    query = parts.query.replace("+", "%2B")
    return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))


_MALFORMED = (
    "the database address must have the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE "
    "(with special characters percent-encoded)"
)


def _with_netloc(url: str) -> str:
    """`urlunsplit` drops the slashes of an empty authority."""
    return url if url.startswith("postgresql://") else "postgresql://" + url.removeprefix("postgresql:")


def _secrets_of(url: str) -> set[str]:
    parts = urlsplit(url)
    options = _options(parts)
    written = [parts.netloc.rpartition("@")[0].partition(":")[2]]
    written += [quote(options.get(name, "")) for name in _SECRET_OPTIONS]
    return {secret for one in written for secret in (one, unquote(one)) if secret}
