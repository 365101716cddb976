"""Response headers that depend on what was sent upstream."""

import pytest

from codellama_proxy.gateway.response_headers import response_headers
from codellama_proxy.request.context import RequestContext
from tests.inbound.messages.claude_code import parsed
from tests.support.builders import deployment


@pytest.mark.parametrize(
    ("model", "sent", "reported"),
    [
        ("gpt-4o", 32_000, "16384"),  # the model's limit
        ("codellama", 4096, "4096"),  # the budget's, or the one the upstream stated
        ("codellama", 32_000, None),
    ],
)
def test_a_bound_that_was_reduced_is_reported(model: str, sent: int, reported: str | None) -> None:
    context = RequestContext("req_1", 0.0, 0.0, "messages", "c")
    context.request = parsed(max_tokens=32_000)
    context.sent = parsed(max_tokens=sent)
    context.serving = deployment(model=model)
    assert response_headers(context, 0.0, lambda: 0.0).get("x-proxy-max-tokens") == reported
