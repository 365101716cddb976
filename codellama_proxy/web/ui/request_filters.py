"""The filters of the Requests page, from the query of its address and back to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from codellama_proxy.store.reports import STATUSES, Filters
from codellama_proxy.store.request_search import Search
from codellama_proxy.web.query_params import moment_of

FILTERS = ("project", "model", "status", "key", "user", "cache", "slow", "code", "start", "end")
"""Parameters that restrict the list, in the order of addresses."""
OTHERS = ("q", "before", "since")
MAX_TEXT_CHARACTERS = 256
MAX_SLOW_SECONDS = 86_400
KEY_PREFIX, SECRET_PREFIX = "key_", "sk-"
_REQUEST_ID = re.compile(r"req_[A-Za-z0-9_-]{1,64}")
"""Only such a text becomes a part of an address."""


class Asked(NamedTuple):
    """What an address asks for."""

    search: Search
    values: Mapping[str, str]
    """The filters in force, as in the address."""
    notes: tuple[str, ...] = ()
    """What was ignored, for people."""
    before: str | None = None
    """The id of the request before which the page begins."""
    detail: str | None = None
    """The id of a request that was searched for: its page is wanted."""

    @property
    def has_filters(self) -> bool:
        return bool(self.values)


def asked_of(given: Mapping[str, str], project: str | None) -> Asked:
    """The filters in a query without empty values; `project` is the only one that the viewer may see, if any.

    What cannot be understood is left out, and noted.
    """
    notes: list[str] = []
    values = {name: given[name] for name in FILTERS if name in given}
    found = given.get("q", "").strip()
    detail = found if _REQUEST_ID.fullmatch(found) else None
    if found.startswith(SECRET_PREFIX):
        notes.append("A secret does not belong in an address. Search for the id of the key instead.")
    elif found.startswith(KEY_PREFIX):
        values["key"] = found
    elif found and detail is None:
        values["user"] = found
    if project is not None:
        values.pop("project", None)
    wrong = [name for name in values if not _is_valid(name, values[name])]
    notes += [f"{name} “{values.pop(name)[:60]}” is not understood and was left out." for name in wrong]
    notes += [f"There is no filter “{name[:60]}”." for name in given if name not in (*FILTERS, *OTHERS)]
    ordered = {name: values[name] for name in FILTERS if name in values}
    return Asked(_search(ordered, project), ordered, tuple(notes), given.get("before"), detail)


def _is_valid(name: str, value: str) -> bool:
    match name:
        case "status":
            return value in STATUSES
        case "cache":
            return value in ("hit", "miss")
        case "slow":
            return _number(value, MAX_SLOW_SECONDS) is not None
        case "code":
            return _number(value, 599) is not None
        case "start" | "end":
            return moment_of(value) is not None
        case _:
            return len(value) <= MAX_TEXT_CHARACTERS


def _search(values: Mapping[str, str], project: str | None) -> Search:
    start, end = values.get("start"), values.get("end")
    filters = Filters(
        project=project or values.get("project"),
        key_id=values.get("key"),
        model=values.get("model"),
        user=values.get("user"),
        status=values.get("status"),
        start=None if start is None else moment_of(start),
        end=None if end is None else moment_of(end, end=True),
    )
    slow, code = _number(values.get("slow", ""), MAX_SLOW_SECONDS), _number(values.get("code", ""), 599)
    cached = {"hit": True, "miss": False}.get(values.get("cache", ""))
    return Search(filters, cached, code, None if slow is None else slow * 1000.0)


def _number(text: str, most: int) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        return None
    return int(text) if 0 < int(text) <= most else None
