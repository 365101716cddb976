"""What would happen to a short chat under a configuration that does not serve."""

from __future__ import annotations

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics import decision
from codellama_proxy.diagnostics.explain_report import as_text
from codellama_proxy.diagnostics.simulation import PlanError, parse, simulate
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.tokens import tokenizers as tokens

ENDPOINT = "chat/completions"
BODY = b'{"prompt": "Hello"}'
ANY_KEY = "any"
"""The id of a key that stands for every key of a project."""


def explained(snapshot: Snapshot, project: str, model: str | None, plan: str, now: float) -> list[str]:
    """The report of a chat by any key of the project, with the planned failures; without secrets.

    Nothing is used yet, and nothing is sent. `model`: `None` for the first one.
    """
    chat = DIALECTS[ENDPOINT].parse(BODY, dict, "req_explained", 0)._replace(model=model)
    key = Key(ANY_KEY, project)
    try:
        failures = parse(plan, snapshot) if plan else None
        world = decision.World(_size, decision.unused(now), now)
        explanation = decision.explain(snapshot, key, chat, world)
        course = None
        if failures is not None and not explanation.error:
            trace = decision.admitted(snapshot, key, chat, explanation)
            course = simulate(trace, chat, explanation.models, snapshot, failures)
    except (ProxyError, PlanError) as error:
        return [str(error)]
    clean = mask_of(snapshot)
    return [clean(line) for line in as_text(snapshot, key, chat, explanation, course, None)]


def _size(chat: InferenceRequest, first: Deployment) -> int:
    """About the number of tokens."""
    del first
    return tokens.of_size(chat.size)
