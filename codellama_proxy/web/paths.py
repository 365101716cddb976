"""Normalizes paths, and finds the route of a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope

UNKNOWN = "unknown"
"""The route of unknown paths."""

VERSION = "/v1"
MAX_COMPARED_CHARS = 64
"""Characters of an unknown path that are compared with the known ones."""
MIN_LIKENESS = 0.7
"""The lowest `SequenceMatcher` ratio at which a path is suggested."""

_NAMED = ("/models/", "/v1/models/", "/requests/", "/v1/requests/")
_SLASHES = re.compile("/{2,}")
_VERSIONS = re.compile("^(?:/v1)+(?=/|$)")


def normalize_path(scope: Scope) -> None:
    """Sets the path that routes are matched by: repeated slashes and versions are collapsed.

    Escapes are decoded in names only: elsewhere they could hide a path from a filter in front of the proxy.
    """
    raw: bytes = scope["raw_path"]
    if raw == b"/v1":  # the base URL that clients are given
        scope["path"] = "/v1/"
    if b"%" not in raw and b"//" not in raw and not raw.startswith(b"/v1/v1"):
        return
    path = _VERSIONS.sub(VERSION, _SLASHES.sub("/", raw.decode("ascii")))
    scope["path"] = unquote(path) if path.startswith(_NAMED) else path


class Paths:
    """The known paths. `templates`: those of the routes, with and without the version."""

    def __init__(self, templates: Iterable[str]) -> None:
        plain = {template.replace(":path}", "}").removeprefix(VERSION) for template in templates}
        self._known = sorted(plain)
        # Not the routes of a part of something: their templates are long enough to be like anything.
        # Nor the root: the shorter a path is, the more it is like it.
        # Nor the dashboard's pages: they have no version, and a page of their own for unknown paths.
        self._suggested = [
            one
            for one in self._known
            if not _around_name(one)[1] and one != "/" and not one.startswith("/ui")
        ]
        self._named = [(*_around_name(one), one) for one in self._known if "{" in one]
        self._named.sort(key=lambda named: len(named[1]), reverse=True)  # the most specific first
        self._labels: Mapping[str, str] = {
            prefix + one: one for one in self._known if "{" not in one for prefix in ("", VERSION)
        }

    def route(self, path: str) -> str:
        """The template a path belongs to, without the version; `unknown` for none."""
        found = self._labels.get(path)
        if found is not None:
            return found
        plain = path.removeprefix(VERSION)
        for prefix, suffix, template in self._named:
            named = len(plain) > len(prefix) + len(suffix)
            if named and plain.startswith(prefix) and plain.endswith(suffix):
                return template
        return UNKNOWN

    def nearest(self, path: str) -> str | None:
        """The known path most similar to an unknown one, with its version; `None` if none is similar."""
        prefix = VERSION if path.startswith(VERSION) else ""
        wanted = path[:MAX_COMPARED_CHARS].removeprefix(VERSION).lower()
        matcher: SequenceMatcher[Any] = SequenceMatcher(None, "", wanted, autojunk=False)

        def likeness(known: str) -> float:
            matcher.set_seq1(known)
            return matcher.ratio()

        best = max((likeness(known), known) for known in self._suggested)
        return prefix + best[1] if best[0] >= MIN_LIKENESS else None


def _around_name(template: str) -> tuple[str, str]:
    """What stands before and after the name in a template."""
    prefix, _, rest = template.partition("{")
    return prefix, rest.partition("}")[2]
