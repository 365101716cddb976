"""Scripts, styles, fonts and icons. Their addresses contain their hash, so browsers keep them for ever."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.web.ui.headers import HEADERS

HASH_CHARACTERS = 12
TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "woff2": "font/woff2",
    "svg": "image/svg+xml",
}
_COMPRESSED = {"woff2"}
_URL = re.compile(rb"url\((?P<name>[a-z0-9-]+\.[a-z0-9]+)\)")


class Asset(NamedTuple):
    name: str
    body: bytes
    packed: bytes | None
    """The same, gzipped; `None` if the format is compressed already."""
    hash: str

    @property
    def path(self) -> str:
        """Relative to the dashboard."""
        return f"static/{self.hash}/{self.name}"


@cache
def assets() -> Mapping[str, Asset]:
    """By name."""
    folder = files(__package__).joinpath("static")
    found = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in TYPES}
    plain = {name: _asset(name, body) for name, body in found.items() if not name.endswith(".css")}
    styles = {
        name: _asset(name, _with_hashes(body, plain)) for name, body in found.items() if name.endswith(".css")
    }
    return {**plain, **styles}


def _asset(name: str, body: bytes) -> Asset:
    is_compressed = name.rpartition(".")[2] in _COMPRESSED
    packed = None if is_compressed else gzip.compress(body, 9, mtime=0)
    return Asset(name, body, packed, hashlib.sha256(body).hexdigest()[:HASH_CHARACTERS])


def _with_hashes(style: bytes, known: Mapping[str, Asset]) -> bytes:
    """A style sheet whose `url(name)` lead to the hashed addresses."""

    def address(found: re.Match[bytes]) -> bytes:
        asset = known[found["name"].decode()]
        return f"url(../{asset.hash}/{asset.name})".encode()

    return _URL.sub(address, style)


async def static(request: Request) -> Response:
    """One file. Raises `ProxyError` 404 for an unknown name or hash."""
    asset = assets().get(request.path_params["name"])
    if asset is None or asset.hash != request.path_params["hash"]:
        raise ProxyError("not_found", "There is no such file.")
    headers = {
        **HEADERS,
        "content-type": TYPES[asset.name.rpartition(".")[2]],
        "cache-control": "public, max-age=31536000, immutable",
    }
    if asset.packed is None:
        return Response(asset.body, headers=headers)
    headers["vary"] = "accept-encoding"
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(asset.body, headers=headers)
    return Response(asset.packed, headers={**headers, "content-encoding": "gzip"})
