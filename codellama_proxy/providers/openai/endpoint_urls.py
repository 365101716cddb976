"""URLs and credential headers of the providers of OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.providers.openai.profiles import OpenAIProfile
from codellama_proxy.providers.openai.unchanged_params import unchanged_params


def address(deployment: Deployment, dialect: OpenAIProfile, path: str) -> str:
    base = (deployment.base_url or dialect.base_url or "").rstrip("/")
    return _azure(base, deployment, path) if dialect.azure else base + path


def credential(deployment: Deployment, dialect: OpenAIProfile) -> dict[str, str]:
    if deployment.api_key is None:
        return {}
    key = deployment.api_key.reveal()
    return {"api-key": key} if dialect.azure else {"authorization": f"Bearer {key}"}


class ChatTarget(NamedTuple):
    """Where and how a deployment takes chats. The same for each of its requests, so it is made once."""

    dialect: OpenAIProfile
    url: str
    headers: Mapping[str, str]
    unchanged: frozenset[str]
    """The parameters that it gets as the client sent them."""


def chat_target(deployment: Deployment, dialect: OpenAIProfile) -> ChatTarget:
    headers = {"content-type": "application/json", **dialect.headers, **deployment.headers}
    return ChatTarget(
        dialect,
        address(deployment, dialect, "/chat/completions"),
        {**headers, **credential(deployment, dialect)},
        unchanged_params(deployment, dialect),
    )


def upstream_model(deployment: Deployment) -> str:
    """Azure's name of the deployment."""
    return str(deployment.extra.get("deployment") or deployment.model)


def is_dated(deployment: Deployment) -> bool:
    """Whether it uses Azure's older API, which has a date as its version and no Responses."""
    return deployment.provider == "azure" and _version(deployment)[:1].isdigit()


def _version(deployment: Deployment) -> str:
    return str(deployment.extra.get("api_version") or "")


def _azure(base: str, deployment: Deployment, path: str) -> str:
    """The URL of the v1 API; with a dated `api_version`, of the older API, whose URL contains the deployment."""
    resource = base.partition("/openai")[0]
    version = _version(deployment)
    if is_dated(deployment):
        name = quote(upstream_model(deployment), safe="")
        return f"{resource}/openai/deployments/{name}{path}?api-version={quote(version, safe='')}"
    v1 = base if base.endswith("/v1") else f"{resource}/openai/v1"
    return f"{v1}{path}?api-version={quote(version, safe='')}" if version else v1 + path
