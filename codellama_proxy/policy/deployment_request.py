"""A client's request as one deployment receives it: guardrail, parameters of the entry, permitted extras, bound.

The cache key, the ledger's hold and each attempt use the same value, so each part is computed once. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.failures import repairs
from codellama_proxy.native.forms import form_of
from codellama_proxy.openai_format.request import InferenceRequest, Native, answers_of
from codellama_proxy.policy import privileged_fields
from codellama_proxy.policy.guardrail import request_for, with_entry_params
from codellama_proxy.policy.project_rules import Candidate, ProjectRules
from codellama_proxy.pricing.extras import Extra, extras_of, is_plain, paid, priced_fields

NOTHING: frozenset[str] = frozenset()


class DeploymentRequest:
    """One request for one deployment."""

    __slots__ = (
        "_bounded",
        "_extras",
        "_policy",
        "candidate",
        "deployment",
        "native",
        "params",
        "plain",
        "request",
    )

    def __init__(
        self, request: InferenceRequest, candidate: Candidate, client_system: str, *, plain: bool
    ) -> None:
        """`client_system`: the guardrail's policy for system messages of the client; `plain`: as of `is_plain`."""
        self.request = request
        """The request as the client sent it."""
        self.candidate = candidate
        self.deployment = candidate.deployment
        self.params = with_entry_params(request.params, candidate.deployment)
        """The client's parameters over the entry's own."""
        self._policy = client_system
        self._bounded: tuple[int | None, InferenceRequest] | None = None
        self._extras: list[Extra] | None = None
        self.native = None if request.native is None else self._relayed(request.native)
        """The request in the client's dialect as it is relayed: with guardrail and the entry's parameters.

        `None` if this deployment gets a translation.
        """
        self.plain = plain and self.native is None and not candidate.deployment.params
        """It has one answer and no extras, and its bounds depend on its length and the deployment alone."""

    def _relayed(self, native: Native) -> Native | None:
        if self.request.dialect not in self.deployment.relays:
            return None
        form, own = form_of(self.request), self.deployment.params
        body = form.without_own_reasoning(native.body)
        body = form.guarded(body, self.candidate.guardrail_text, self._policy)
        return native._replace(body=form.with_defaults(body, own) if own else body)

    @property
    def priced_fields(self) -> Mapping[str, Any]:
        """The parameters that can change the price."""
        return priced_fields(self._with_own_params)

    @property
    def _with_own_params(self) -> InferenceRequest:
        if self.request.native is None and not self.deployment.params:
            return self.request
        return self.request.with_content(self.request.messages, self.params, self.native)

    @property
    def answers(self) -> int:
        """The number of answers that are generated and paid for."""
        return answers_of(self.request.endpoint, self.params)

    @property
    def extras(self) -> list[Extra]:
        """The features it uses that cost extra."""
        if self._extras is None:
            self._extras = [] if self.plain else extras_of(self._with_own_params)
        return self._extras

    @property
    def paid_extras(self) -> list[Extra]:
        """The extras that have a price at this deployment."""
        found = self.extras
        if not found:
            return found
        price = self.candidate.price
        return [extra for extra in found if extra.paid_by(self.deployment.price, price)]

    def bounded(self, max_tokens: int | None) -> InferenceRequest:
        """The request with the guardrail, the entry's parameters and the ledger's bound `max_tokens`, if any."""
        if self._bounded is None or self._bounded[0] != max_tokens:
            text = self.candidate.guardrail_text
            here = request_for(self.request, self.deployment, text, self._policy, max_tokens, self.native)
            self._bounded = max_tokens, here
        return self._bounded[1]

    def to_send(
        self, max_tokens: int | None, *, budgeted: bool, refused: frozenset[str] = NOTHING
    ) -> tuple[InferenceRequest, tuple[str, ...]]:
        """The request to send, and the names of the client's parameters that are dropped from it.

        `budgeted`: extras without a price are dropped; `refused`: parameters that the deployment refused before.
        Raises `ProxyError` unsupported_parameter where the entry does not drop parameters.
        """
        request = self.bounded(max_tokens)
        if request.native is not None:
            form_of(request).check(request.native.body)
        dropped = privileged_fields.refused_from(self.request, self.deployment)
        if refused:
            request, without = repairs.repaired(request, refused)
            dropped = (*without, *dropped)
        if budgeted and self.extras:
            request, unpaid = paid(request, self.deployment, self.candidate.price)
            dropped = (*dropped, *unpaid)
        return request, dropped


class DeploymentRequests:
    """One request for each of its candidates, computed on demand."""

    __slots__ = ("_by_id", "plain", "request", "rules")

    def __init__(self, request: InferenceRequest, rules: ProjectRules) -> None:
        self.request = request
        self.rules = rules
        self.plain = is_plain(request)
        """As of the function; for candidates that get a translation of a request in another dialect."""
        self._by_id: dict[str, DeploymentRequest] = {}

    def at(self, deployment: Deployment) -> DeploymentRequest:
        """The request for one candidate; the same object at each call."""
        known = self._by_id.get(deployment.id)
        if known is None:
            rules = self.rules
            known = DeploymentRequest(
                self.request, rules.candidate(deployment), rules.guardrail.client_system, plain=self.plain
            )
            self._by_id[deployment.id] = known
        return known
