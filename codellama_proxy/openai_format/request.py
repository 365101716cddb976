"""The inference request, and the parser for chats.

Chats follow OpenAI's Chat Completions (platform.openai.com/docs/api-reference/chat); `prompt` is accepted as short for
one user message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.fields import (
    check_fields,
    check_items,
    invalid_type,
    invalid_value,
    parse_json,
)
from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS
from codellama_proxy.openai_format.texts import Texts, texts_of

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
PLAIN_ROLES = ROLES - {"tool"}
"""Those whose messages need no other field."""
SYSTEM_ROLES = {"system", "developer"}
CACHE_MARKS = frozenset({"cache_control", "prompt_cache_breakpoint"})
"""What marks the cacheable prefix of a prompt, in a message, a part of its content or a tool."""
THINKING_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Kinds of content that repeat a model's thoughts."""
OWN_SIGNATURE = "clp1."
"""Begins the signature of a thinking block that this proxy made: no provider accepts it."""
MAX_NAME = 256
"""Characters of a client's `model` or `user`; longer names end in a hash."""

TRACKING_KEYS = frozenset({"pl_tags", "prompt_name", "prompt_version", "prompt_input_variables"})
"""Keys of `metadata` for prompt tracking, never sent upstream."""

Message = Mapping[str, Any]

Endpoint = Literal["chat/completions", "completions", "embeddings"]
MODES: Mapping[Endpoint, str] = {
    "chat/completions": "chat",
    "completions": "completion",
    "embeddings": "embedding",
}
DialectName = Literal["chat", "messages", "responses"]
"""The API that the client uses: OpenAI's chats (and completions, embeddings), Anthropic Messages, OpenAI Responses."""


class Native(NamedTuple):
    """A request in the client's dialect, for providers that accept it as it is."""

    body: Mapping[str, Any]
    """As parsed. Read-only."""
    headers: Mapping[str, str]
    """The headers that the dialect's providers read, names in lower case."""


class InferenceRequest(NamedTuple):
    """One checked request. `params` holds every field that is not here, in the client's words."""

    model: str | None
    messages: Sequence[Message]
    stream: bool
    include_usage: bool
    """The client asked for the usage chunk of a stream."""
    params: Mapping[str, Any]
    user: str | None
    metadata: Mapping[str, Any]
    cache: Mapping[str, Any]
    """LiteLLM's per-request `cache` object: `no-cache`, `no-store`, `ttl`, `s-maxage`."""
    size: int
    """Bytes of the request body."""
    id: str = ""
    """The proxy's request id, for answers without an id of their own."""
    created: int = 0
    """Unix seconds, for answers without a time of their own."""
    endpoint: Endpoint = "chat/completions"
    """Its path. Only chats have messages; completions have `prompt`, embeddings `input`, among their `params`."""
    texts: Sequence[str] | None = None
    """The text of an embedding's `input` of token ids, for providers that take only text."""
    dialect: DialectName = "chat"
    native: Native | None = None
    """The request in its own dialect, if that is not OpenAI's chats."""
    soft: frozenset[str] = frozenset()
    """Parameters that are dropped and reported, not refused, where they are not supported."""
    ignored: tuple[str, ...] = ()
    """What the translation from the client's dialect left out, for `x-proxy-dropped-params`."""
    needed_tool: str = ""
    """A tool of the client's dialect that the request is about and that only a relay has; translations refuse it."""

    def with_content(
        self, messages: Sequence[Message], params: Mapping[str, Any], native: Native | None
    ) -> InferenceRequest:
        """A copy with other content: every attempt needs one, and `_replace` is slow."""
        model, _, stream, include_usage = self[:4]
        values = model, messages, stream, include_usage, params, *self[5:14], native, *self[15:]
        return tuple.__new__(InferenceRequest, values)

    def from_dialect(
        self,
        dialect: DialectName,
        native: Native,
        *,
        include_usage: bool,
        soft: frozenset[str],
        ignored: tuple[str, ...],
        needed_tool: str,
    ) -> InferenceRequest:
        """A copy that says what it was translated from; faster than `_replace` as well."""
        values = *self[:3], include_usage, *self[4:13], dialect, native, soft, ignored, needed_tool
        return tuple.__new__(InferenceRequest, values)

    @property
    def shown_endpoint(self) -> str:
        """The endpoint in rows, logs and permissions: that of the client's dialect."""
        return self.endpoint if self.dialect == "chat" else self.dialect

    @property
    def mode(self) -> str:
        """The kind of deployment that serves it: `chat`, `completion` or `embedding`."""
        return MODES[self.endpoint]

    @property
    def given(self) -> Any:
        """What is to be completed or embedded: text or token ids, or a list of either."""
        return self.params.get("prompt" if self.endpoint == "completions" else "input")

    @property
    def n(self) -> int:
        return answers_of(self.endpoint, self.params)

    @property
    def max_tokens(self) -> int | None:
        """The client's bound on the answer, in tokens per choice."""
        if self.endpoint == "embeddings":
            return None
        found: int | None = self.params.get("max_completion_tokens", self.params.get("max_tokens"))
        return found

    @property
    def max_tokens_field(self) -> str:
        """The name the client used for it."""
        return "max_completion_tokens" if "max_completion_tokens" in self.params else "max_tokens"


def answers_of(endpoint: Endpoint, params: Mapping[str, Any]) -> int:
    """How many choices are generated and billed."""
    if "n" not in params and "best_of" not in params and endpoint != "completions":  # nearly every request
        return 1
    best_of = params.get("best_of")  # of chats too: vLLM takes it, unchecked here
    n = max(int(params.get("n", 1)), best_of if type(best_of) is int else 1)
    return n * len(several(params["prompt"])) if endpoint == "completions" else n


def several(given: Any) -> list[Any]:
    """A prompt or an input as a list; a text and a list of token ids are one item each."""
    is_one = not isinstance(given, list) or (bool(given) and isinstance(given[0], int))
    return [given] if is_one else given


def parse_chat(body: bytes, request_id: str = "", created: int = 0) -> InferenceRequest:
    """A chat request from its body. Raises `ProxyError` with status 400 and `param`."""
    fields = check_fields(parse_json(body), CHAT_PARAMETERS)
    check_items(fields)
    messages = _messages(fields.pop("messages", None), fields.pop("prompt", None))
    return request_of("chat/completions", messages, fields, len(body), request_id, created)


def request_of(
    endpoint: Endpoint,
    messages: Sequence[Message],
    fields: dict[str, Any],
    size: int,
    request_id: str,
    created: int,
) -> InferenceRequest:
    """The request with these checked `fields`, of which those without an attribute become `params`."""
    stream = fields.pop("stream", False)
    options = fields.pop("stream_options", None)
    include_usage = False if options is None else _includes_usage(options, stream=stream)
    model = fields.pop("model", None)
    if model == "":
        raise invalid_value("model", "'model' must not be empty.")
    user = fields.get("user")
    return InferenceRequest(  # by position: names cost a tenth of the parsing
        shortened(model),
        messages,
        stream,
        include_usage,
        fields,
        shortened(user),
        fields.pop("metadata", {}),
        fields.pop("cache", {}),
        size,
        request_id,
        created,
        endpoint,
    )


def _includes_usage(options: Mapping[str, Any], *, stream: bool) -> bool:
    """Whether `stream_options` ask for the usage chunk. Raises `ProxyError`."""
    if not stream:
        raise invalid_value("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    found = options.get("include_usage")
    if found is not None and not isinstance(found, bool):
        raise invalid_type("stream_options.include_usage", "boolean")
    return bool(found)


def shortened(name: str | None) -> str | None:
    """A name for rows and log lines; one over `MAX_NAME` characters ends in its hash, which keeps it distinct."""
    if name is None or len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[: MAX_NAME - 65]}~{digest}"


def label(given: Any) -> str | None:
    """A client's id for rows, such as that of a session, as `shortened` and without control characters.

    `None` for what is not text, or blank.
    """
    if not isinstance(given, str):
        return None
    name = shortened(given) or ""
    if not name.isprintable():
        name = "".join([char for char in name if char.isprintable()])
    return name.strip() or None


def _messages(messages: list[Any] | None, prompt: str | None) -> Sequence[Message]:
    if prompt is not None:
        if messages is not None:
            raise invalid_value("prompt", "Give either 'prompt' or 'messages', not both.")
        return Texts([{"role": "user", "content": prompt}])
    if messages is None:
        raise ProxyError(
            "missing_required_parameter", "'messages' (or 'prompt') is required.", param="messages"
        )
    if not messages:
        raise invalid_value("messages", "'messages' must not be empty.")
    if (texts := texts_of(messages)) is not None:
        return texts
    for index, message in enumerate(messages):
        if not _is_plain(message):
            _check_message(message, f"messages[{index}]")
    return messages


def _is_plain(message: Any) -> bool:
    """Whether it is the usual text of a known role, which needs no further checks."""
    if type(message) is not dict or len(message) != 2 or type(message.get("content")) is not str:
        return False
    role = message.get("role")
    return type(role) is str and role in PLAIN_ROLES


def _check_message(message: Any, at: str) -> None:
    if not isinstance(message, dict):
        raise invalid_type(at, "object")
    role = message.get("role")
    if role is None:
        raise ProxyError("missing_required_parameter", f"'{at}.role' is required.", param=f"{at}.role")
    if not isinstance(role, str):
        raise invalid_type(f"{at}.role", "string")
    if role not in ROLES:
        raise invalid_value(f"{at}.role", f"'{at}.role' must be one of {', '.join(sorted(ROLES))}.")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise ProxyError(
            "missing_required_parameter", f"'{at}.tool_call_id' is required.", param=f"{at}.tool_call_id"
        )
    _check_content(message.get("content"), role, at)
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise invalid_type(f"{at}.tool_calls", "array of objects")


def _check_content(content: Any, role: str, at: str) -> None:
    if isinstance(content, str):
        return
    if content is None:
        if role not in ("assistant", "function"):  # an assistant may only have called tools
            raise ProxyError(
                "missing_required_parameter", f"'{at}.content' is required.", param=f"{at}.content"
            )
        return
    if not isinstance(content, list):
        raise invalid_type(f"{at}.content", "string or array")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise invalid_type(f"{at}.content[{index}]", "object with a 'type'")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise invalid_type(f"{at}.content[{index}].text", "string")
