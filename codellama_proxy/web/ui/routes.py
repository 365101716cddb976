"""The routes of the dashboard. Each is listed in `tests/web/ui/test_access.py` with who may use it."""

from __future__ import annotations

from starlette.routing import Route

from codellama_proxy.web.ui.assets import static
from codellama_proxy.web.ui.guard import opened, page, switched_on
from codellama_proxy.web.ui.pages import (
    budgets,
    config,
    connect,
    errors,
    export,
    key,
    keys,
    live,
    models,
    overview,
    playground,
    request,
    requests,
    sign_in,
)

PREFIX = "/ui"


def routes() -> list[Route]:
    """Pages that show one thing only come before those with a name in the path; the last one takes the rest."""
    return [
        Route("/ui", opened(sign_in.index)),
        Route("/ui/", opened(sign_in.index)),
        Route("/ui/sign-in", opened(sign_in.form_page)),
        Route("/ui/sign-in", opened(sign_in.sign_in), methods=["POST"]),
        Route("/ui/sign-out", opened(sign_in.sign_out), methods=["POST"]),
        Route("/ui/requests", page(requests.requests)),
        Route("/ui/live", page(live.live)),
        Route("/ui/requests.csv", page(export.requests)),
        Route("/ui/spend.csv", page(export.spend)),
        Route("/ui/requests/{request_id}", page(request.request)),
        Route("/ui/static/{hash}/{name}", switched_on(static)),
        Route("/ui/overview", page(overview.overview)),
        Route("/ui/models", page(models.models)),
        Route("/ui/models/probe", page(models.probe, operator=True), methods=["POST"]),
        Route("/ui/keys", page(keys.keys)),
        Route("/ui/keys", page(keys.create, operator=True), methods=["POST"]),
        Route("/ui/keys/{key_id}", page(key.key)),
        Route("/ui/keys/{key_id}", page(key.update, operator=True), methods=["POST"]),
        Route("/ui/keys/{key_id}/block", page(key.block, operator=True), methods=["POST"]),
        Route("/ui/keys/{key_id}/unblock", page(key.unblock, operator=True), methods=["POST"]),
        Route("/ui/keys/{key_id}/rotate", page(key.rotate, operator=True), methods=["POST"]),
        Route("/ui/keys/{key_id}/delete", page(key.delete, operator=True), methods=["POST"]),
        Route("/ui/connect", page(connect.connect)),
        Route("/ui/budgets", page(budgets.budgets)),
        Route("/ui/config", page(config.config, operator=True)),
        Route("/ui/config", page(config.try_draft, operator=True), methods=["POST"]),
        Route("/ui/playground", page(playground.playground)),
        Route("/ui/playground/answer", page(playground.answer), methods=["POST"]),
        Route("/ui/playground/{request_id}", page(playground.answered)),
        Route("/ui/{path:path}", page(errors.missing)),
    ]


def is_ui(path: str) -> bool:
    """Whether a path belongs to the dashboard."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")
