"""What strangers cannot do: choose where a request goes, as whom, or unguarded; and what the code never does."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import each
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.raw_http import exchange, request
from tests.support.upstream.process import Upstream

USER = {"role": "user", "content": "hi"}
ENDPOINTS = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
}


class Attacker:
    """A host that waits for somebody to come."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.socket.setblocking(False)
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.url = f"http://{self.host}"

    def visits(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.accept()[0].close()
                count += 1
        return count


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    one = Attacker()
    yield one
    one.socket.close()


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain"),
            model("text", mode="completion"),
            model("vectors", mode="embedding"),
        )
    )


MODEL = {"/v1/chat/completions": "plain", "/v1/completions": "text", "/v1/embeddings": "vectors"}


def fields(url: str) -> dict[str, Any]:
    """Fields with which other gateways, SDKs and providers let a caller choose."""
    return {
        **dict.fromkeys(("api_base", "base_url", "api_url", "endpoint", "url", "host", "proxy"), url),
        **dict.fromkeys(("azure_endpoint", "aws_bedrock_runtime_endpoint", "vertex_project"), url),
        **dict.fromkeys(
            ("api_key", "organization", "custom_llm_provider", "provider", "deployment_id"), "evil"
        ),
        "extra_headers": {"authorization": "Bearer evil", "host": url},
        "extra_query": {"api_base": url},
        "extra_body": {"api_base": url},
        "headers": {"authorization": "Bearer evil"},
        "litellm_params": {"api_base": url},
        "fallbacks": [{"model": "x", "api_base": url}],
        "metadata": {"api_base": url, "guardrail": "off", "model_config": {"api_base": url}},
        "guardrails": [],
        "disable_guardrail": True,
        "system_prompt": "",
        "router": {"api_base": url},
    }


def headers(url: str, host: str) -> dict[str, str]:
    return {
        "x-forwarded-host": host,
        "forwarded": f"host={host};proto=http",
        "x-original-url": url,
        "x-rewrite-url": url,
        "x-portkey-custom-host": url,
        "x-portkey-provider": "openai",
        "helicone-target-url": url,
        "x-litellm-api-base": url,
        "openai-base-url": url,
        "openai-organization": "evil",
        "proxy-authorization": "Basic evil",
        "x-http-method-override": "GET",
        "x-guardrail": "off",
    }


def untouched(upstream: Upstream, attacker: Attacker) -> None:
    """Nobody came to the attacker; whatever came upstream came as we meant it."""
    assert attacker.visits() == 0
    for sent in upstream.journal.requests():
        label = str(sent["body"]["model"]).partition("/")[0]
        assert sent["path"] in ENDPOINTS
        assert ["authorization", f"Bearer sk-upstream-secret-{label[::-1]}"] in sent["headers"]
        assert "evil" not in str(sent["headers"])
        assert attacker.host not in str(sent["headers"])
        if sent["path"].endswith("/chat/completions"):
            assert sent["body"]["messages"][0] == {"role": "system", "content": GUARDRAIL}


def test_the_attackers_server_records_requests(attacker: Attacker) -> None:
    socket.create_connection(attacker.socket.getsockname()).close()
    assert attacker.visits() == 1


@pytest.mark.parametrize("path", ENDPOINTS)
def test_no_field_of_a_body_chooses_host_credential_or_guardrail(
    served: Proxy, upstream: Upstream, attacker: Attacker, path: str
) -> None:
    answered = 0
    for name, value in fields(attacker.url).items():
        body = {"model": MODEL[path], **ENDPOINTS[path], name: value}
        answer = served.client.post(path, json=body, headers=served.auth)
        assert answer.status_code in (200, 400), (name, answer.text)
        answered += answer.status_code == 200
    assert answered == len(upstream.journal.requests())
    untouched(upstream, attacker)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_no_header_or_query_chooses_host_credential_or_guardrail(
    served: Proxy, upstream: Upstream, attacker: Attacker, path: str
) -> None:
    query = f"?api_base={attacker.url}&base_url={attacker.url}&api_key=evil&guardrail=off"
    body = {"model": MODEL[path], **ENDPOINTS[path]}
    given = served.auth | headers(attacker.url, attacker.host)
    answer = served.client.post(path + query, json=body, headers=given)
    assert answer.status_code == 200, answer.text
    assert len(upstream.journal.requests()) == 1
    untouched(upstream, attacker)


def test_no_model_name_is_used_as_an_address(served: Proxy, upstream: Upstream, attacker: Attacker) -> None:
    for name in (
        attacker.url,
        f"openai/{attacker.url}",
        f"plain@{attacker.host}",
        "openai/gpt-4.1",
        "../plain",
    ):
        assert served.chat(model=name).status_code == 404
    assert upstream.journal.requests() == []
    untouched(upstream, attacker)


def test_no_request_line_or_host_header_is_used_as_an_address(
    served: Proxy, upstream: Upstream, attacker: Attacker
) -> None:
    body = {"model": "plain", "messages": [USER]}
    for target, host in (
        (f"{attacker.url}/v1/chat/completions", attacker.host),
        ("/v1/chat/completions", attacker.host),
        (f"//{attacker.host}/v1/chat/completions", "proxy"),
        (f"@{attacker.host}/v1/chat/completions", "proxy"),
    ):
        reply = exchange(served.port, request(target, body, host=host, **served.auth))
        assert reply.status in (200, 400, 404), target
    untouched(upstream, attacker)


def test_addresses_in_messages_are_passed_on_and_never_fetched(
    served: Proxy, upstream: Upstream, attacker: Attacker
) -> None:
    image = {"type": "image_url", "image_url": {"url": f"{attacker.url}/image.png"}}
    answer = served.chat(model="plain", messages=[{"role": "user", "content": [image]}])
    assert answer.status_code == 200
    assert image in upstream.journal.bodies()[0]["messages"][1]["content"]
    untouched(upstream, attacker)


# --- what the package never does -----------------------------------------------------------------------

PACKAGE = Path(__file__).parents[2] / "codellama_proxy"
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {
    *("subprocess", "pickle", "marshal", "shelve", "dill", "code", "codeop", "pty", "ctypes", "runpy"),
    *("jinja2", "mako", "chevron", "pystache", "tornado", "importlib.import_module", "string.Template"),
}
CALLS = (
    "os.system",
    "os.popen",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "yaml.load",
    "yaml.unsafe",
)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in BUILTINS or name.startswith(CALLS) or name in MODULES:
                yield f"line {node.lineno}: {name}()"
        elif isinstance(node, ast.Import):
            yield from (
                f"line {node.lineno}: {a.name}" for a in node.names if a.name.split(".")[0] in MODULES
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module, node.module.split(".")[0]} | {f"{node.module}.{a.name}" for a in node.names}
            yield from (f"line {node.lineno}: {name}" for name in names & MODULES)


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "import subprocess",
        "import pickle as p",
        "from jinja2 import Template",
        "from string import Template",
        "import os\nos.execv('a', [])",
        "import yaml\nyaml.load('a', yaml.Loader)",
    ],
)
def test_the_source_check_finds_forbidden_calls(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


TEMPLATES = PACKAGE / "web/ui/render.py"
"""The one module that renders templates; they are files of the package, never text from elsewhere."""
WORKERS = PACKAGE / "server/siblings.py"
"""The one module that starts a program: this one again, with the arguments of its own start."""
ALLOWED = {TEMPLATES: "jinja2", WORKERS: "subprocess"}


@each("path", sorted(PACKAGE.rglob("*.py")))
def test_the_package_executes_no_strings_programs_or_templates(path: Path) -> None:
    found = list(forbidden(ast.parse(path.read_text())))
    assert [one for one in found if ALLOWED.get(path, "none") not in one] == []


def test_templates_are_files_of_the_package_and_escape_every_value() -> None:
    text = TEMPLATES.read_text()
    assert "from_string" not in text
    assert "autoescape=True" in text
    assert not [one.name for one in TEMPLATES.parent.glob("templates/*.html") if "|safe" in one.read_text()]


def test_an_error_never_repeats_an_address_or_a_secret(served: Proxy, upstream: Upstream) -> None:
    for body in ({"model": "plain", "messages": "no"}, {"model": "none", "messages": [USER]}):
        text = json.dumps(served.client.post("/v1/chat/completions", json=body, headers=served.auth).json())
        assert upstream.origin not in text
        assert "sk-" not in text
