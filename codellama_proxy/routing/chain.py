"""A request's chain: the models that may answer it. What follows from them alone is worked out once. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codellama_proxy.core.snapshot import Deployment, Model
from codellama_proxy.pricing.catalogue import price_of


class Chain:
    """The asked model, then its fallbacks. Without restrictions and cooldowns, all requests for a model share one."""

    __slots__ = ("_payable", "deployments", "has_choice", "max_output_tokens", "models", "names")

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self.names = tuple([model.name for model in models])
        self.deployments = tuple([d for model in models for d in model.deployments])
        """Every deployment, in file order within a name."""
        self.has_choice = any(len(model.deployments) > 1 for model in models)
        """Whether a name has several deployments, whose order is decided for each request."""
        self.max_output_tokens = max([d.max_output_tokens for d in self.deployments], default=0)
        self._payable: tuple[Chain, ...] | None = None
        """Once it is known: the chain of the priced deployments; empty if that is this one."""

    def named(self, name: str) -> Model | None:
        """The model with this name, if it is in the chain."""
        for model in self.models:
            if model.name == name:
                return model
        return None

    def payable(self) -> Chain:
        """The chain under a budget: without deployments of unknown price, unless none would be left."""
        if self._payable is None:
            self._payable = self._priced()
        return self._payable[0] if self._payable else self

    def _priced(self) -> tuple[Chain, ...]:
        if None not in [price_of(d) for d in self.deployments]:
            return ()
        able = [replace(model, deployments=_priced(model.deployments)) for model in self.models]
        left = [model for model in able if model.deployments]
        return (Chain(left),) if left else ()


def _priced(deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
    return tuple(d for d in deployments if price_of(d) is not None)
