"""No copy is kept of a configuration that holds a secret itself."""

import pytest

from codellama_proxy.config.load import load
from codellama_proxy.config.secret_values import contains_secret
from codellama_proxy.providers.registry import IMPLEMENTED

ENTRY = "models: [{name: gpt-4, provider: openai, %s}]\n"
ENVIRON = {"OPENAI_API_KEY": "sk-canary-1234"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (ENTRY % 'api_key: "${OPENAI_API_KEY}"', False),
        (ENTRY % "api_key: sk-canary-1234", True),
        (ENTRY % "headers: {x-api-key: sk-canary-1234}", True),
        (ENTRY % 'headers: {authorization: "Bearer ${OPENAI_API_KEY}"}', False),
        (ENTRY % "headers: {http-referer: our-team}", False),
        (ENTRY % "weight: 1" + "tracking: {promptlayer: {api_key: pl-canary}}\n", True),
    ],
)
def test_substituted_secrets_in_a_text_are_detected(text: str, holds: bool) -> None:
    snapshot = load(text.encode(), ENVIRON, implemented=IMPLEMENTED)
    assert contains_secret(text.encode(), snapshot) is holds
