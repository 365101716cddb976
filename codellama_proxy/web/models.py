"""GET /models: the models this key may use, in the order of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Model
from codellama_proxy.policy.permissions import permission
from codellama_proxy.request.context import ANONYMOUS
from codellama_proxy.web.auth import caller
from codellama_proxy.web.http import respond
from codellama_proxy.web.state import runtime_of, snapshot_of


async def list_models(request: Request) -> Response:
    return respond({"object": "list", "data": [_shown(request, model) for model in await _usable(request)]})


async def get_model(request: Request) -> Response:
    name = request.path_params["id"]
    for model in await _usable(request):
        if model.name == name:
            return respond(_shown(request, model))
    message = f"The model '{name[:200]}' does not exist or you do not have access to it."
    raise ProxyError("model_not_found", message, param="model")


async def _usable(request: Request) -> list[Model]:
    who = await caller(request)
    snapshot = snapshot_of(request)
    models = snapshot.models.values()
    if who.admin:
        return list(models)
    project = snapshot.project(who.key.project if who.key else ANONYMOUS)
    permitted = permission(project, who.key)
    return [model for model in models if permitted(model.name)]


def _shown(request: Request, model: Model) -> Mapping[str, Any]:
    created = int(runtime_of(request).live.loaded_at)
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": model.deployments[0].provider,
    }
