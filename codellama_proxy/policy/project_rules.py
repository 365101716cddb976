"""What the configuration decides for all requests of a project, worked out at the first of them. Pure."""

from __future__ import annotations

import hashlib

import orjson

from codellama_proxy.core.snapshot import Deployment, Guardrail, Project, Snapshot, Tariff
from codellama_proxy.limits.caller_scopes import ProjectScopes
from codellama_proxy.policy.guardrail import guardrail_text
from codellama_proxy.pricing import cost as pricing
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.pricing.extras import CALL_TOKENS, MAX_UNBOUNDED_CALLS
from codellama_proxy.pricing.output_bounds import always_searches, unbounded_reasoning


class Candidate:
    """One deployment for the requests of one project."""

    __slots__ = (
        "deployment",
        "guardrail_text",
        "max_own_tokens",
        "max_plain_own_tokens",
        "plain_rates",
        "plain_unbounded_tokens",
        "price",
        "settings_digest",
    )

    def __init__(self, deployment: Deployment, guardrail: Guardrail, project: Project) -> None:
        self.deployment = deployment
        self.guardrail_text = text = guardrail_text(guardrail, project, deployment)
        """The system prompt that is sent first; empty for none."""
        self.max_own_tokens = len(text.encode())
        """An upper bound of the prompt tokens of guardrail and entry parameters: their bytes."""
        if deployment.params:
            self.max_own_tokens += len(repr(dict(deployment.params)))
        self.max_plain_own_tokens = self.max_own_tokens
        """The same for a request without options: with the searches that the model makes anyway."""
        if always_searches(deployment):
            self.max_plain_own_tokens += CALL_TOKENS * MAX_UNBOUNDED_CALLS
        self.plain_unbounded_tokens = unbounded_reasoning(deployment)
        """Output tokens that `max_tokens` does not bound, of a request without options."""
        self.price = price = price_of(deployment)
        """`None`: unknown."""
        self.plain_rates: Tariff | None = None
        """The highest prices of a prompt and of a completion token, for a price without tiers."""
        if price is not None and not price.above and not price.service_tiers:
            rates = pricing.reachable(price, 0)
            most = max(rates.input, rates.cached_input or 0, rates.cache_write or 0)
            self.plain_rates = Tariff(most, rates.output)
        where = (deployment.id, deployment.provider, deployment.base_url, deployment.model)
        settings = orjson.dumps(
            [*where, deployment.drop_params, deployment.extra, text],
            default=dict,
            option=orjson.OPT_SORT_KEYS,
        )
        self.settings_digest = hashlib.sha256(settings).digest()
        """Of what determines its answers besides requests and the entry's parameters."""


class ProjectRules:
    """One project's settings, and what follows from them."""

    __slots__ = ("_candidates", "guardrail", "scopes", "settings")

    def __init__(self, guardrail: Guardrail, settings: Project, scopes: ProjectScopes | None = None) -> None:
        """`scopes`: those of its callers; only for requests that are not admitted there may be none."""
        self.guardrail = guardrail
        self.settings = settings
        self.scopes = scopes
        self._candidates: dict[str, Candidate] = {}

    def candidate(self, deployment: Deployment) -> Candidate:
        """The deployment for this project's requests; the same object at each call."""
        found = self._candidates.get(deployment.id)
        if found is None or found.deployment is not deployment:
            found = self._candidates[deployment.id] = Candidate(deployment, self.guardrail, self.settings)
        return found


def rules_of(snapshot: Snapshot, project: Project) -> ProjectRules:
    """The rules of a project under a configuration."""
    return ProjectRules(snapshot.guardrail, project, ProjectScopes(snapshot, project))
