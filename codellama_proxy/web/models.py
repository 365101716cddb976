"""GET /models: the models this key may use, in the order of the file, then their aliases without wildcards.

A request with an `anthropic-version` header gets Anthropic's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Model
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.policy.permissions import permission
from codellama_proxy.request.context import ANONYMOUS
from codellama_proxy.routing.selection import exact_aliases, model_name
from codellama_proxy.web import anthropic_models
from codellama_proxy.web.auth import caller
from codellama_proxy.web.http import respond
from codellama_proxy.web.state import runtime_of, snapshot_of


async def list_models(request: Request) -> Response:
    """A page of models in Anthropic's form; all of them in OpenAI's."""
    usable = await _usable(request)
    names = {**usable, **_aliases(request, usable)}
    if anthropic_models.is_wanted(request):
        return respond(anthropic_models.page(request, names, _loaded_at(request)), dialect=MESSAGES)
    return respond({"object": "list", "data": [_shown(request, *named) for named in names.items()]})


async def get_model(request: Request) -> Response:
    """One model, by its name or any of its aliases."""
    usable = await _usable(request)
    name = request.path_params["id"]
    model = usable.get(model_name(snapshot_of(request), name))
    if model is None:
        message = f"The model '{name[:200]}' does not exist or you do not have access to it."
        raise ProxyError("model_not_found", message, param="model")
    if anthropic_models.is_wanted(request):
        return respond(anthropic_models.shown(name, model, _loaded_at(request)), dialect=MESSAGES)
    return respond(_shown(request, name, model))


async def _usable(request: Request) -> dict[str, Model]:
    who = await caller(request)
    snapshot = snapshot_of(request)
    if who.admin:
        return dict(snapshot.models)
    project = snapshot.project(who.key.project if who.key else ANONYMOUS)
    permitted = permission(project, who.key)
    return {name: model for name, model in snapshot.models.items() if permitted(name)}


def _aliases(request: Request, usable: Mapping[str, Model]) -> dict[str, Model]:
    """The usable models by their aliases without wildcards."""
    targets = exact_aliases(snapshot_of(request))
    return {alias: usable[name] for alias, name in targets.items() if name in usable}


def _loaded_at(request: Request) -> float:
    return runtime_of(request).live.loaded_at


def _shown(request: Request, name: str, model: Model) -> Mapping[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(_loaded_at(request)),
        "owned_by": model.deployments[0].provider,
    }
