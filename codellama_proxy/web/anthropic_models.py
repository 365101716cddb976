"""Lists of models in Anthropic's form. (platform.claude.com/docs/en/api/models-list)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from codellama_proxy.core.clock import iso
from codellama_proxy.core.snapshot import Model
from codellama_proxy.web.query_params import Query, invalid

PAGE_SIZE = 20
"""Models on a page whose `limit` is not given."""
MAX_PAGE_SIZE = 1000


def is_wanted(request: Request) -> bool:
    """Whether the client speaks Anthropic's API at a path that both APIs have."""
    return "anthropic-version" in request.headers


def page(request: Request, models: Mapping[str, Model], created: float) -> dict[str, Any]:
    """The page of `models` that the query wants: `limit`, `before_id`, `after_id`; others are ignored.

    Raises `ProxyError` 400. `created`: unix seconds.
    """
    names = list(models)
    ids, more = _page(Query(request, request.query_params.keys()), names)
    return {
        "data": [shown(name, models[name], created) for name in ids],
        "has_more": more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def shown(name: str, model: Model, created: float) -> dict[str, Any]:
    """One model; limits in tokens, `None` where the configuration does not have them."""
    windows = [d.context_window for d in model.deployments if d.context_window is not None]
    outputs = [d.output_limit for d in model.deployments if d.output_limit is not None]
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": iso(created),
        "lifecycle": "active",
        "max_input_tokens": min(windows, default=None),
        "max_tokens": min(outputs, default=None),
    }


def _page(query: Query, names: Sequence[str]) -> tuple[Sequence[str], bool]:
    """The names on the page, and whether there are more in its direction."""
    limit = query.number("limit", PAGE_SIZE, MAX_PAGE_SIZE)
    before, after = (_place(query, param, names) for param in ("before_id", "after_id"))
    if before is not None and after is not None:
        raise invalid("before_id", "makes no sense beside 'after_id'")
    if before is not None:
        return names[max(0, before - limit) : before], before > limit
    start = 0 if after is None else after + 1
    return names[start : start + limit], len(names) > start + limit


def _place(query: Query, param: str, names: Sequence[str]) -> int | None:
    given = query.text(param)
    if given is None:
        return None
    if given not in names:
        raise invalid(param, "is not the id of a model in the list")
    return names.index(given)
