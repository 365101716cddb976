"""`/audit`: who changed which key, when and how."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.store.audit import ACTIONS, AuditFilters
from codellama_proxy.web.auth import require_admin
from codellama_proxy.web.http import respond
from codellama_proxy.web.query_params import Query
from codellama_proxy.web.state import runtime_of

_PARAMETERS = ("project", "key_id", "action", "actor", "start", "end", "page", "size")


async def audit(request: Request) -> Response:
    """One page of changes, the newest first."""
    await require_admin(request)
    query = Query(request, _PARAMETERS)
    filters = AuditFilters(
        project=query.text("project"),
        key_id=query.text("key_id"),
        action=query.one_of("action", ACTIONS),
        actor=query.text("actor"),
        start=query.moment("start"),
        end=query.moment("end", end=True),
    )
    page, size = query.page(), query.size()
    found, total = await runtime_of(request).store.audit.changes(filters, page, size)
    return respond({"data": found, "page": page, "size": size, "total": total})
