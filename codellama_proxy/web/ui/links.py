"""Relative links, so that pages work under any prefix that a reverse proxy removes."""

from __future__ import annotations

import re
from urllib.parse import urlencode

from starlette.requests import Request

_NEXT = re.compile(r"[a-z][A-Za-z0-9_-]*(?:/[A-Za-z0-9_-]+)*(?:\?[A-Za-z0-9_.~%&=+:,@-]*)?")
MAX_NEXT_CHARACTERS = 2000


def to_root(request: Request) -> str:
    """The relative link from a page to the directory of the proxy: empty, or ends in a slash."""
    return "../" * (_depth(request) - 1)


def to_ui(request: Request) -> str:
    """The relative link from a page to the directory of the dashboard: empty, or ends in a slash."""
    depth = _depth(request)
    return "ui/" if depth == 1 else "../" * (depth - 2)


def _depth(request: Request) -> int:
    """The number of slashes in the path: 1 for `/ui`, 2 for `/ui/overview`."""
    path: str = request.scope["path"]
    return path.count("/")


def section_of(request: Request) -> str:
    """The first part of a page's path within the dashboard, such as `requests`."""
    path: str = request.scope["path"]
    return path.removeprefix("/ui").strip("/").partition("/")[0]


def sign_in_link(request: Request) -> str:
    """The sign-in page, which leads back to this one."""
    path: str = request.scope["path"]
    here = path.removeprefix("/ui").strip("/")
    if request.url.query:
        here += f"?{request.url.query}"
    wanted = safe_next(here) if request.method in ("GET", "HEAD") else None
    query = "?" + urlencode({"next": wanted}) if wanted else ""
    return f"{to_ui(request)}sign-in{query}"


def safe_next(given: str) -> str | None:
    """A page of the dashboard, relative to it, and nothing else; `None` otherwise."""
    return given if len(given) <= MAX_NEXT_CHARACTERS and _NEXT.fullmatch(given) else None


def with_query(path: str, **parameters: str | None) -> str:
    """A link with the parameters that are not empty."""
    given = {name: value for name, value in parameters.items() if value}
    return f"{path}?{urlencode(given)}" if given else path
