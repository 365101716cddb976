"""The endpoints that read the ledger back: `/spend`, `/spend/logs` and `/requests/{request_id}`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.errors import ProxyError
from codellama_proxy.store.ledger import Ledger
from codellama_proxy.store.spending import GROUPS, MOST_ROWS, STATUSES, Filters
from codellama_proxy.web.auth import caller, require_admin
from codellama_proxy.web.http import respond
from codellama_proxy.windows import DAY

PAGE_SIZE = 50
MOST_PAGES = 10**9
LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999."""

_FILTERS = ("project", "key_id", "model", "user", "status", "request_id", "start", "end")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


# --- handlers ----------------------------------------------------------------------------------------------


async def spend(request: Request) -> Response:
    """Sums by any groups; without admin rights, of one's own project only."""
    group_by, filters = _groups(request), _filters(request, ("group_by",))
    who = await caller(request)
    if not who.admin:
        if who.key is None:
            await require_admin(request)
        else:
            filters = _within(filters, who.key.project)
    return respond(await _ledger(request).spend(group_by, filters))


async def logs(request: Request) -> Response:
    """One page of requests, the newest first."""
    await require_admin(request)
    filters = _filters(request, ("page", "size"))
    page, size = _number(request, "page", 1, MOST_PAGES), _number(request, "size", PAGE_SIZE, MOST_ROWS)
    rows, total = await _ledger(request).logs(filters, page, size)
    return respond({"data": rows, "page": page, "size": size, "total": total})


async def one(request: Request) -> Response:
    """One request whole, for an administrator or a key of its project; others do not learn that it exists."""
    who = await caller(request)
    request_id = request.path_params["request_id"]
    found = await _ledger(request).request(request_id)
    if found is None or not (who.admin or (who.key is not None and who.key.project == found["project"])):
        raise ProxyError("not_found", f"There is no request {request_id[:100]!r}.", param="request_id")
    return respond(found)


# --- reading the query -------------------------------------------------------------------------------------


def _ledger(request: Request) -> Ledger:
    ledger: Ledger = request.app.state.runtime.ledger
    return ledger


def _within(filters: Filters, project: str) -> Filters:
    """The same, seen from one project: of another there is nothing to see."""
    if filters.project in (None, project):
        return replace(filters, project=project)
    return replace(filters, project=project, end=0.0)


def _filters(request: Request, others: Collection[str]) -> Filters:
    given = request.query_params
    for name in given:
        if name not in _FILTERS and name not in others:
            raise ProxyError(
                "unsupported_parameter", f"There is no parameter '{name[:100]}'.", param=name[:100]
            )
    status = given.get("status")
    if status is not None and status not in STATUSES:
        raise _invalid("status", f"must be one of {', '.join(STATUSES)}")
    return Filters(
        project=given.get("project"),
        key_id=given.get("key_id"),
        model=given.get("model"),
        user=given.get("user"),
        status=status,
        request_id=given.get("request_id"),
        start=_moment(request, "start"),
        end=_moment(request, "end"),
    )


def _groups(request: Request) -> tuple[str, ...]:
    given = request.query_params.get("group_by", "")
    groups = tuple(name.strip() for name in given.split(",") if name.strip())
    if any(group not in GROUPS for group in groups):
        raise _invalid("group_by", f"must be any of {', '.join(GROUPS)}, separated by commas")
    return groups


def _number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) < 11 and 1 <= int(given) <= most):
        raise _invalid(name, f"must be a number from 1 to {most}")
    return int(given)


def _moment(request: Request, name: str) -> float | None:
    """Unix seconds, or an ISO date or time, UTC unless it says otherwise; an end that is a day includes it."""
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        if re.fullmatch(r"\d+(\.\d+)?", given, re.ASCII):
            moment = float(given)
        else:
            # A plus that nobody escaped arrives as a space.
            parsed = datetime.fromisoformat(given.replace(" ", "+") if "T" in given else given)
            moment = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
            moment += DAY if name == "end" and _DATE.fullmatch(given) else 0
    except (ValueError, OverflowError):
        moment = -1.0
    if not 0 <= moment <= LAST_MOMENT:
        raise _invalid(name, "must be an ISO date or time, or unix seconds")
    return moment


def _invalid(param: str, must: str) -> ProxyError:
    return ProxyError("invalid_value", f"'{param}' {must}.", param=param)
