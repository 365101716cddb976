"""Every budget: what is spent and held, where it is headed, and when it resets."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.web.state import runtime_of
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.budgets import visible_budgets
from codellama_proxy.web.ui.guard import parameters
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.viewer import Viewer

MAX_SHOWN = 200


async def budgets(request: Request, viewer: Viewer) -> Response:
    """The fullest first."""
    runtime = runtime_of(request)
    now = runtime.time.wall()
    project = viewer.project(parameters(request).get("project"))
    snapshot = runtime.live.snapshot
    keys = await runtime.store.overviews.known_keys(project)
    found = await visible_budgets(runtime.store.overviews, snapshot, viewer, project, keys, now)
    shown = found[:MAX_SHOWN]
    return render(
        request,
        "budgets.html",
        budgets=shown,
        more=len(found) - len(shown),
        project=project,
        projects=sorted(
            {*snapshot.projects, *(key.project for key in keys), *([project] if project else [])}
        ),
        form=words.usd_column([amount for one in shown for amount in (one.spent, one.limit, one.held)]),
    )
