"""The endpoints that read the ledger: `/spend`, `/spend/logs` and `/requests/{request_id}`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.request import label
from codellama_proxy.store.reports import GROUPS, MAX_ROWS, STATUSES, Filters
from codellama_proxy.web.auth import caller, require_admin
from codellama_proxy.web.connected import while_connected
from codellama_proxy.web.http import respond
from codellama_proxy.web.query_params import Query, invalid
from codellama_proxy.web.state import runtime_of

_FILTERS = (
    *("project", "key_id", "model", "user", "status", "session", "agent"),
    *("request_id", "start", "end"),
)


# --- handlers ----------------------------------------------------------------------------------------------


async def spend(request: Request) -> Response:
    """A page of grouped sums; without admin rights, of the caller's project only."""
    query = Query(request, (*_FILTERS, "group_by", "page", "size"))
    group_by, filters = _groups(query), _filters(query)
    page, size = query.page(), query.size(MAX_ROWS)
    who = await caller(request)
    if not who.admin:
        if who.key is None:
            await require_admin(request)
        else:
            filters = _within(filters, who.key.project)
    reports = runtime_of(request).store.reports
    found = await while_connected(request, reports.spend(group_by, filters, page, size))
    return respond({**found, "page": page, "size": size})


async def logs(request: Request) -> Response:
    """A page of requests, the newest first; with `before`, those before a request, without a total."""
    await require_admin(request)
    query = Query(request, (*_FILTERS, "page", "size", "before"))
    filters, size = _filters(query), query.size()
    before = query.text("before")
    if before is not None:
        return respond({"data": await _before(request, query, filters, before, size), "size": size})
    page = query.page()
    reports = runtime_of(request).store.reports
    rows, total = await while_connected(request, reports.logs(filters, page, size))
    return respond({"data": rows, "page": page, "size": size, "total": total})


async def _before(
    request: Request, query: Query, filters: Filters, before: str, size: int
) -> list[dict[str, Any]]:
    if "page" in query:
        raise invalid("page", "makes no sense beside 'before'")
    reports = runtime_of(request).store.reports
    rows = await while_connected(request, reports.before(filters, before, size))
    if rows is None:
        raise invalid("before", "is not the id of a request that is kept")
    return rows


async def one(request: Request) -> Response:
    """One request with all fields, for the administrator or a key of its project; 404 for others."""
    who = await caller(request)
    request_id = request.path_params["request_id"]
    found = await runtime_of(request).store.reports.request(request_id)
    if found is None or not (who.admin or (who.key is not None and who.key.project == found["project"])):
        raise ProxyError("not_found", f"There is no request {request_id[:100]!r}.", param="request_id")
    return respond(found)


# --- reading the query -------------------------------------------------------------------------------------


def _within(filters: Filters, project: str) -> Filters:
    """Restricts filters to one project; for another project nothing matches."""
    if filters.project in (None, project):
        return filters._replace(project=project)
    return filters._replace(project=project, end=0.0)


def _filters(query: Query) -> Filters:
    return Filters(
        project=query.text("project"),
        key_id=query.text("key_id"),
        model=query.text("model"),
        user=query.text("user"),
        status=query.one_of("status", STATUSES),
        session=_label(query.text("session")),
        agent=_label(query.text("agent")),
        request_id=query.text("request_id"),
        start=query.moment("start"),
        end=query.moment("end", end=True),
    )


def _label(given: str | None) -> str | None:
    """The id as rows have it; what is blank matches none."""
    return None if given is None else label(given) or ""


def _groups(query: Query) -> tuple[str, ...]:
    given = query.text("group_by") or ""
    groups = tuple(name.strip() for name in given.split(",") if name.strip())
    if any(group not in GROUPS for group in groups):
        raise invalid("group_by", f"must be any of {', '.join(GROUPS)}, separated by commas")
    return groups
