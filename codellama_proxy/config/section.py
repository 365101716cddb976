"""What the sections of proxy.yaml have in common, and the types of values that several of them use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from codellama_proxy.config import field_types as s
from codellama_proxy.config.network_types import PROXY
from codellama_proxy.config.yaml.scalars import Substituted, plain
from codellama_proxy.core.snapshot import Secret

ONE_OF = BeforeValidator(lambda value: str(value) if isinstance(value, Substituted) else value)
"""For a choice of words: a substituted one that looks like a number or a boolean is text."""

Flag = Annotated[bool, s.FLAG]
Name = Annotated[str, s.NAME]
UpstreamName = Annotated[str, s.UPSTREAM_NAME]
Prompt = Annotated[str | Literal[False], s.PROMPT]
Proxy = Annotated[Secret | Literal[False] | None, PROXY]
Timeout = Annotated[float, s.duration()]
Count = Annotated[int, s.whole(0, 10**12)]


class Section(BaseModel):
    """A mapping of known keys; one left empty is as good as absent."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        defer_build=True,  # `File` is validated, which contains the others: each is built once
    )

    off: ClassVar[Mapping[str, Any] | None] = None
    """The value that `false` means; `None`: the section cannot be disabled."""

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        if value is None:
            return {}
        if cls.off is not None and not isinstance(value, dict | list) and plain(value) is False:
            return dict(cls.off)
        return value
