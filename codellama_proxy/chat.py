"""The chat request: parsed once from strangers' bytes, checked shallowly, given its guardrail.

The proxy speaks OpenAI's Chat Completions (platform.openai.com/docs/api-reference/chat) plus `prompt`, one user
message in short. Checks are shallow on purpose: types and ranges that are wrong for every provider; the rest
is for the provider, who has the last word. Unknown fields are kept and travel on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from codellama_proxy.errors import ProxyError
from codellama_proxy.types import Deployment, Guardrail, Project

MAX_DEPTH = 64
MAX_INT = 2**31 - 1
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
SYSTEM_ROLES = {"system", "developer"}
TRACKING_KEYS = frozenset({"pl_tags", "prompt_name", "prompt_version", "prompt_input_variables"})
"""Keys of `metadata` that are for prompt tracking, and for no upstream."""

Message = Mapping[str, Any]
Endpoint = Literal["chat/completions", "completions", "embeddings"]
MODES: Mapping[Endpoint, str] = {
    "chat/completions": "chat",
    "completions": "completion",
    "embeddings": "embedding",
}


class ChatRequest(NamedTuple):
    """One checked request. `params` holds every field that is not here, in the client's words."""

    model: str | None
    messages: Sequence[Message]
    stream: bool
    include_usage: bool
    """The client wants the usage chunk of a stream."""
    params: Mapping[str, Any]
    user: str | None
    metadata: Mapping[str, Any]
    cache: Mapping[str, Any]
    """LiteLLM's per-request `cache` object: `no-cache`, `no-store`, `ttl`, `s-maxage`."""
    size: int
    """Bytes of the request as it came."""
    id: str = ""
    """Our request id, for answers that come without an id of their own."""
    created: int = 0
    """Unix seconds, for answers that do not say."""
    endpoint: Endpoint = "chat/completions"
    """What it asks for. Only chats have messages: the others have `prompt` or `input` among their `params`."""
    texts: Sequence[str] | None = None
    """What the token ids among an embedding's `input` say, for providers that take only text."""

    @property
    def mode(self) -> str:
        """Which kind of deployment can answer."""
        return MODES[self.endpoint]

    @property
    def given(self) -> Any:
        """What is to be completed or embedded: a text or its token ids, or a list of either."""
        return self.params.get("prompt" if self.endpoint == "completions" else "input")

    @property
    def n(self) -> int:
        return answers_of(self.endpoint, self.params)

    @property
    def max_tokens(self) -> int | None:
        """The client's own bound on the answer, tokens per choice."""
        if self.endpoint == "embeddings":
            return None
        found: int | None = self.params.get("max_completion_tokens", self.params.get("max_tokens"))
        return found

    @property
    def max_tokens_field(self) -> str:
        """The name the client used for it."""
        return "max_completion_tokens" if "max_completion_tokens" in self.params else "max_tokens"


def answers_of(endpoint: Endpoint, params: Mapping[str, Any]) -> int:
    """How many answers are generated, and paid for."""
    n = int(params.get("n", 1))
    if endpoint != "completions":
        return n
    return max(n, int(params.get("best_of", 1))) * len(several(params["prompt"]))


def several(given: Any) -> list[Any]:
    """A prompt or an input as the list it may be: a text is one, and so is a list of token ids."""
    is_one = not isinstance(given, list) or (bool(given) and isinstance(given[0], int))
    return [given] if is_one else given


# --- bytes to JSON -------------------------------------------------------------------------------------------


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises `ProxyError`: invalid_json, invalid_encoding, json_too_deep, invalid_type."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(body, str(error)) from None
    # Fewer brackets than the limit cannot nest deeper than it: most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper_than(found, MAX_DEPTH):
        raise ProxyError("json_too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    if not isinstance(found, dict):
        raise ProxyError("invalid_type", "The request body must be a JSON object.")
    return found


def _unreadable(body: bytes, reason: str) -> ProxyError:
    try:
        body.decode()
    except UnicodeDecodeError:
        return ProxyError("invalid_encoding", "The request body is not valid UTF-8.")
    if body.startswith(b"\xef\xbb\xbf"):
        return ProxyError("invalid_encoding", "The request body begins with a byte order mark. Remove it.")
    if "surrogate" in reason:
        return ProxyError("invalid_encoding", "The request body contains half of a surrogate pair.")
    if "depth" in reason:
        return ProxyError("json_too_deep", f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    return ProxyError("invalid_json", f"The request body is not valid JSON: {reason}.")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


# --- checks --------------------------------------------------------------------------------------------------

Kind = Literal[
    "boolean", "integer", "number", "string", "object", "array", "string or array", "string or object"
]

_PYTHON: Mapping[Kind, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "string or array": (str, list),
    "string or object": (str, dict),
}

# field -> its JSON type, and the range where OpenAI's reference gives one that holds for everybody.
FIELDS: Mapping[str, tuple[Kind, tuple[float, float] | None]] = {
    "model": ("string", None),
    "messages": ("array", None),
    "prompt": ("string", None),
    "stream": ("boolean", None),
    "stream_options": ("object", None),
    "max_tokens": ("integer", (1, MAX_INT)),
    "max_completion_tokens": ("integer", (1, MAX_INT)),
    "temperature": ("number", (0, 2)),
    "top_p": ("number", (0, 1)),
    "n": ("integer", (1, 128)),
    "stop": ("string or array", None),
    "presence_penalty": ("number", (-2, 2)),
    "frequency_penalty": ("number", (-2, 2)),
    "logit_bias": ("object", None),
    "logprobs": ("boolean", None),
    "top_logprobs": ("integer", (0, 20)),
    "seed": ("integer", (-(2**63), 2**63 - 1)),
    "tools": ("array", None),
    "tool_choice": ("string or object", None),
    "parallel_tool_calls": ("boolean", None),
    "functions": ("array", None),
    "function_call": ("string or object", None),
    "response_format": ("object", None),
    "reasoning_effort": ("string", None),
    "verbosity": ("string", None),
    "modalities": ("array", None),
    "audio": ("object", None),
    "prediction": ("object", None),
    "metadata": ("object", None),
    "store": ("boolean", None),
    "service_tier": ("string", None),
    "user": ("string", None),
    "safety_identifier": ("string", None),
    "prompt_cache_key": ("string", None),
    "prompt_cache_options": ("object", None),
    "prompt_cache_retention": ("string", None),
    "moderation": ("object", None),
    "web_search_options": ("object", None),
    "cache": ("object", None),
}

CHATS_ONLY = frozenset(
    {
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "reasoning_effort", "verbosity", "modalities", "audio", "prediction"),
        *("logprobs", "top_logprobs", "web_search_options"),
    }
)
"""Parameters that completions and embeddings do not have, or mean something else by."""

MAX_ITEMS: Mapping[str, int] = {"stop": 16, "tools": 1024, "functions": 1024, "messages": 20_000}

# Words that somebody would take as "send it there, with this", or "without the guardrail": only proxy.yaml decides
# that. Some are other gateways'; `models`, `route` and `preset` are OpenRouter's, `chat_template` is vLLM's.
REFUSED = (
    "api_base",
    "base_url",
    "api_key",
    "api_version",
    "organization",
    "extra_headers",
    "extra_body",
    "extra_query",
    "custom_llm_provider",
    "fallbacks",
    "guardrails",
    "models",
    "route",
    "preset",
    "chat_template",
)


def invalid_type(param: str, expected: str) -> ProxyError:
    article = "an" if expected[0] in "aeio" else "a"
    return ProxyError("invalid_type", f"'{param}' must be {article} {expected}.", param=param)


def invalid_value(param: str, message: str) -> ProxyError:
    return ProxyError("invalid_value", message, param=param)


def check_fields(
    body: Mapping[str, Any], fields: Mapping[str, tuple[Kind, tuple[float, float] | None]]
) -> dict[str, Any]:
    """The body without its nulls (null means absent, as in OpenAI's API), every known field checked."""
    present = {name: value for name, value in body.items() if value is not None}
    for name, value in present.items():
        rule = fields.get(name)
        if rule is not None:
            _check(name, value, *rule)
        elif name in REFUSED:
            message = f"'{name}' is not supported: where requests go is decided by the proxy's configuration."
            raise ProxyError("unsupported_parameter", message, param=name)
    return present


def _check(name: str, value: Any, kind: Kind, bounds: tuple[float, float] | None) -> None:
    # bool is an int in Python; in JSON it is not.
    wrong = not isinstance(value, _PYTHON[kind]) or (isinstance(value, bool) and kind != "boolean")
    if wrong and not (kind == "integer" and bounds is not None and _huge(value)):
        raise invalid_type(name, kind)
    if bounds is not None and isinstance(value, int | float) and not bounds[0] <= value <= bounds[1]:
        raise invalid_value(name, f"'{name}' must be between {bounds[0]} and {bounds[1]}.")
    if isinstance(value, list) and len(value) > MAX_ITEMS.get(name, len(value)):
        raise invalid_value(name, f"'{name}' may have at most {MAX_ITEMS[name]} items.")


def _huge(value: Any) -> bool:
    """A whole number of more than 64 bits comes as a float: its size is what is wrong with it."""
    return isinstance(value, float) and abs(value) >= 2**63


def parse_chat(body: bytes, request_id: str = "", created: int = 0) -> ChatRequest:
    """A request body, checked. Raises `ProxyError` of status 400 with `param`."""
    fields = check_fields(parse_json(body), FIELDS)
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
) -> ChatRequest:
    """The request that these checked fields are; what it has no place for stays among them."""
    stream = fields.pop("stream", False)
    options = fields.pop("stream_options", None)
    if options is not None and not stream:
        raise invalid_value("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    include_usage = (options or {}).get("include_usage")
    if include_usage is not None and not isinstance(include_usage, bool):
        raise invalid_type("stream_options.include_usage", "boolean")
    model = fields.pop("model", None)
    if model == "":
        raise invalid_value("model", "'model' must not be empty.")
    return ChatRequest(
        model=model,
        messages=messages,
        stream=stream,
        include_usage=bool(include_usage),
        user=fields.get("user"),
        metadata=fields.pop("metadata", {}),
        cache=fields.pop("cache", {}),
        params=fields,
        size=size,
        id=request_id,
        created=created,
        endpoint=endpoint,
    )


def check_items(fields: Mapping[str, Any]) -> None:
    """The items of arrays that every provider would choke on."""
    stop = fields.get("stop")
    if isinstance(stop, list) and not all(isinstance(item, str) for item in stop):
        raise invalid_type("stop", "string or array of strings")
    for name in ("tools", "functions"):
        for index, item in enumerate(fields.get(name, ())):
            if not isinstance(item, dict):
                raise invalid_type(f"{name}[{index}]", "object")
    if MAX_TOKENS_FIELDS[0] in fields and MAX_TOKENS_FIELDS[1] in fields:
        message = "Give either 'max_tokens' or 'max_completion_tokens', not both."
        raise invalid_value(MAX_TOKENS_FIELDS[0], message)


def _messages(messages: list[Any] | None, prompt: str | None) -> Sequence[Message]:
    if prompt is not None:
        if messages is not None:
            raise invalid_value("prompt", "Give either 'prompt' or 'messages', not both.")
        return [{"role": "user", "content": prompt}]
    if messages is None:
        raise ProxyError(
            "missing_required_parameter", "'messages' (or 'prompt') is required.", param="messages"
        )
    if not messages:
        raise invalid_value("messages", "'messages' must not be empty.")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    return messages


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


# --- the guardrail -------------------------------------------------------------------------------------------


def check_client_system(messages: Sequence[Message], policy: str) -> None:
    """Refuses system messages of the client when the configuration says so."""
    if policy != "reject":
        return
    for index, message in enumerate(messages):
        if message["role"] in SYSTEM_ROLES:
            at = f"messages[{index}].role"
            raise invalid_value(at, "System messages are set by this proxy and not accepted from clients.")


def guarded(messages: Sequence[Message], text: str, policy: str) -> list[Message]:
    """The messages as every upstream gets them: the guardrail first, then the client's as `policy` has it."""
    if policy == "drop":
        messages = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    first = [{"role": "system", "content": text}] if text else []
    return [*first, *messages]


def addressed(
    chat: ChatRequest, deployment: Deployment, text: str, policy: str, max_tokens: int | None
) -> ChatRequest:
    """The request as this deployment gets it: guarded, with the entry's `params` and the ledger's bound."""
    if chat.endpoint != "chat/completions":
        params: Mapping[str, Any] = {**_not_for_chats(deployment.params), **chat.params}
        messages: Sequence[Message] = ()
    else:
        params = with_own(chat.params, deployment)
        messages = guarded(chat.messages, text, policy)
    bound = chat.max_tokens if max_tokens is None else max_tokens
    if bound is not None:
        # The field has two names: neither may say something else.
        params = {name: value for name, value in params.items() if name not in MAX_TOKENS_FIELDS}
        params[chat.max_tokens_field] = bound
    return chat._replace(messages=messages, params=params)


def with_own(params: Mapping[str, Any], deployment: Deployment) -> Mapping[str, Any]:
    """A chat's parameters over the entry's own."""
    return {**deployment.params, **params} if deployment.params else params


def _not_for_chats(params: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry's parameters, those that mean something where nobody chats."""
    return {name: value for name, value in params.items() if name not in CHATS_ONLY}


def guardrail_of(guardrail: Guardrail, project: Project, deployment: Deployment) -> str:
    """The text that comes first. The project has the last word, then the model entry; empty for none."""
    for own in (project.guardrail, deployment.system_prompt):
        if own is not None:
            return own or ""
    return guardrail.system_prompt or ""
