"""Settings of clients, ready to copy. Those of `docs/clients.md`, which are run in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BASE, KEY, MODEL = "%BASE%", "%KEY%", "%MODEL%"
"""Places for the address of the proxy without `/v1`, a key, and the name of a model."""
NO_KEY = "sk-..."


class Block(NamedTuple):
    name: str
    """Of the block in `docs/clients.md`; empty for one that is not there."""
    file: str | None
    """Where it is saved, below the home directory; `None` for commands."""
    text: str


class Client(NamedTuple):
    id: str
    title: str
    blocks: tuple[Block, ...]
    check: str
    """How to see that it works."""


def filled(client: Client, base: str, key: str | None, model: str) -> Client:
    """The settings for a proxy, a key and a model."""

    def text(one: Block) -> str:
        return one.text.rstrip("\n").replace(BASE, base).replace(KEY, key or NO_KEY).replace(MODEL, model)

    return client._replace(blocks=tuple([one._replace(text=text(one)) for one in client.blocks]))


CLIENTS: Sequence[Client] = (
    Client(
        "claude-code",
        "Claude Code",
        (
            Block(
                "claude-code-models",
                None,
                """\
export ANTHROPIC_BASE_URL=%BASE%
export ANTHROPIC_AUTH_TOKEN=%KEY%
export ANTHROPIC_MODEL=%MODEL%
export ANTHROPIC_DEFAULT_OPUS_MODEL=%MODEL%
export ANTHROPIC_DEFAULT_SONNET_MODEL=%MODEL%
export ANTHROPIC_DEFAULT_HAIKU_MODEL=%MODEL%
export CLAUDE_CODE_SUBAGENT_MODEL=%MODEL%
claude
""",
            ),
        ),
        "Type /status in Claude Code: it shows the base URL.",
    ),
    Client(
        "codex",
        "Codex",
        (
            Block(
                "codex",
                "~/.codex/config.toml",
                """\
model = "%MODEL%"
model_provider = "proxy"

[model_providers.proxy]
name = "codellama-proxy"
base_url = "%BASE%/v1"
env_key = "CODELLAMA_PROXY_KEY"
wire_api = "responses"
""",
            ),
            Block(
                "codex-run",
                None,
                """\
export CODELLAMA_PROXY_KEY=%KEY%
codex
""",
            ),
        ),
        "Codex prints the provider and the model when it starts.",
    ),
    Client(
        "opencode",
        "opencode",
        (
            Block(
                "opencode",
                "~/.config/opencode/opencode.json",
                """\
{
  "$schema": "https://opencode.ai/config.json",
  "provider": {
    "proxy": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "codellama-proxy",
      "options": {"baseURL": "%BASE%/v1", "apiKey": "%KEY%"},
      "models": {"%MODEL%": {"name": "Code Llama", "tool_call": true}}
    }
  }
}
""",
            ),
            Block(
                "opencode-run",
                None,
                """\
opencode --model proxy/%MODEL%
""",
            ),
        ),
        "The model is in the list of /models.",
    ),
    Client(
        "cline",
        "Cline",
        (
            Block(
                "cline",
                None,
                """\
cline auth -p openai -k %KEY% -m %MODEL% -b %BASE%/v1
cline -P openai -m %MODEL%
""",
            ),
        ),
        "In the editor, choose the provider OpenAI Compatible with the same base URL, key and model.",
    ),
    Client(
        "qwen-code",
        "Qwen Code",
        (
            Block(
                "qwen-code",
                None,
                """\
export OPENAI_BASE_URL=%BASE%/v1
export OPENAI_API_KEY=%KEY%
export OPENAI_MODEL=%MODEL%
qwen --auth-type openai
""",
            ),
        ),
        "The model's name is at the bottom of the screen.",
    ),
    Client(
        "continue",
        "Continue",
        (
            Block(
                "continue",
                "~/.continue/config.yaml",
                """\
name: codellama-proxy
version: 1.0.0
schema: v1
models:
  - name: %MODEL%
    provider: openai
    model: %MODEL%
    apiBase: %BASE%/v1
    apiKey: %KEY%
    roles: [chat, edit, apply]
    capabilities: [tool_use]
""",
            ),
            Block(
                "continue-run",
                None,
                """\
cn --config ~/.continue/config.yaml
""",
            ),
        ),
        "The model is in the list of the chat.",
    ),
    Client(
        "aider",
        "aider",
        (
            Block(
                "aider",
                None,
                """\
export OPENAI_API_BASE=%BASE%/v1
export OPENAI_API_KEY=%KEY%
aider --model openai/%MODEL%
""",
            ),
        ),
        "aider prints the model when it starts.",
    ),
    Client(
        "openai-sdk",
        "OpenAI SDK",
        (
            Block(
                "openai-sdk",
                None,
                """\
from openai import OpenAI  # pip install openai

client = OpenAI(base_url="%BASE%/v1", api_key="%KEY%")
messages = [{"role": "user", "content": "write me a function to print hello world"}]
answer = client.chat.completions.create(model="%MODEL%", messages=messages)
print(answer.choices[0].message.content)
for chunk in client.chat.completions.create(model="%MODEL%", messages=messages, stream=True):
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="")
""",
            ),
        ),
        "It prints the answer twice: whole, and as it is generated.",
    ),
    Client(
        "anthropic-sdk",
        "Anthropic SDK",
        (
            Block(
                "anthropic-sdk",
                None,
                """\
from anthropic import Anthropic  # pip install anthropic

client = Anthropic(base_url="%BASE%", api_key="%KEY%")
messages = [{"role": "user", "content": "write me a function to print hello world"}]
message = client.messages.create(model="%MODEL%", max_tokens=1000, messages=messages)
print(message.content[0].text)
with client.messages.stream(model="%MODEL%", max_tokens=1000, messages=messages) as stream:
    for text in stream.text_stream:
        print(text, end="")
""",
            ),
        ),
        "It prints the answer twice: whole, and as it is generated.",
    ),
    Client(
        "curl",
        "curl",
        (
            Block(
                "",
                None,
                """\
curl %BASE%/v1/chat/completions -H 'Authorization: Bearer %KEY%' -H 'Content-Type: application/json' \\
  -d '{"model": "%MODEL%", "prompt": "write me a function to print hello world"}'
""",
            ),
        ),
        "It prints JSON with the answer.",
    ),
)
