"""Secrets in every place of proxy.yaml and an upstream that repeats all it is given: nothing of them leaves."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.forked import run_forked
from tests.support.processes import environment, until
from tests.support.proxy_process import Proxy, ProxyFactory
from tests.support.stored import kept

SECRETS = {
    "KEY": "plainKeyWithoutPrefix7Qx",
    "HEADER": "header/value+Zr93kdLw==",
    "PATH_TOKEN": "zVb51nmQe-74tGh",
    "PARAM": "qHy77wqPo-18rKm",
    "MODEL": "wJk20cvTz-55yNf",
    "SEMANTIC": "eLs64bnRu-31uPd",
    "PROMPTLAYER": "rDf38gyMi-90iSa",
    "TAG": "tWx12opKj-67oZx",
    "PROJECT_TEXT": "yGt85eaUb-42pLc",
    "VERSION": "uNc46hsXa-83aVb",
}
PROMPT = "iEi93zfOc-29sQn"
LITERALS = ("literalkey-Bu74ytSp", "literalcookie-Ro61lmFd")
NEW_KEY = "anotherKeyAfterwards5Wm"
EVERY = (*SECRETS.values(), PROMPT, *LITERALS, NEW_KEY)
MODES = ("whole400", "whole401", "whole422", "whole500", "inband", "stream-first", "stream-later", "headers")


class Echo(BaseHTTPRequestHandler):
    """Puts the whole request, in several encodings, wherever an answer has room for text."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

    def _answer(self, body: bytes) -> None:
        mode = next((mode for mode in MODES if f"/{mode}" in self.path), "whole500")
        error = self._error(body)
        status = int(mode.removeprefix("whole")) if mode.startswith("whole") else 200
        if mode.startswith("stream") and b'"stream":true' in body:
            first = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": self._all(body)}
            first["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]
            pieces = [first, error] if mode == "stream-later" else [error]
            content = b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces)
            self._send(200, "text/event-stream", content)
        elif mode == "headers":
            message = {"role": "assistant", "content": "hi"}
            whole = {"id": self._all(body)[:90], "object": "chat.completion", "created": 1}
            whole |= {
                "model": self._all(body),
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
            self._send(200, "application/json", json.dumps(whole).encode())
        else:
            self._send(status, "application/json", json.dumps(error).encode())

    def _error(self, body: bytes) -> dict[str, Any]:
        shown = self._all(body)
        error = {"message": shown, "param": shown, "code": shown, "type": shown}
        return {"error": error, "message": shown, "detail": shown}

    def _all(self, body: bytes) -> str:
        values = [self.path, *self.headers.values(), body.decode()]
        # Short pieces first: what is shown of the text is its beginning.
        words = [value.removeprefix("Bearer ") for value in self.headers.values()]
        asked = json.loads(body) if body.startswith(b"{") else {}
        words = [str(asked.get("user")), str(asked.get("metadata")), *words]
        encoded = [base64.b64encode(f"x:{word}".encode()).decode() for word in words]
        return " ".join([*words, *(quote(word, safe="") for word in words), *encoded, *values])

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in self.headers.items():
            self.send_header(f"x-echo-{name}", value)
            if name.lower() in ("authorization", "x-api-key"):
                self.send_header(name, value)
                self.send_header("x-request-id", value)
                self.send_header("openai-organization", value)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROVIDERS = (
    "openai_compatible",
    "anthropic",
    "azure",
    "cohere",
    "ai21",
    "replicate",
    "huggingface",
    "together",
)


def entries(echo: str) -> list[dict[str, Any]]:
    common = {
        "api_key": "${KEY}",
        "headers": {"x-custom": "${HEADER}", "x-plain": "Token ${HEADER}"},
        "fallbacks": [],
        "drop_params": True,
        "price": {"input": 1, "output": 1},
    }
    every = [
        {
            **common,
            "name": f"{provider}-{mode}",
            "provider": provider,
            "model": "owner/${MODEL}" if provider == "replicate" else "${MODEL}",
            "base_url": f"{echo}/${{PATH_TOKEN}}/{mode}",
            **({"params": {"metadata_token": "${PARAM}"}} if provider == "openai_compatible" else {}),
            **({"api_version": "${VERSION}"} if provider == "azure" else {}),
        }
        for provider in PROVIDERS
        for mode in MODES
    ]
    literal = {
        **common,
        "name": "literal",
        "provider": "openai_compatible",
        "base_url": f"{echo}/whole400",
        "api_key": LITERALS[0],
        "headers": {"cookie": LITERALS[1]},
    }
    texts = [
        {**common, "name": "text", "provider": "openai_compatible", "mode": "completion"},
        {**common, "name": "vectors", "provider": "openai_compatible", "mode": "embedding"},
    ]
    return [*every, literal, *({**one, "base_url": f"{echo}/${{PATH_TOKEN}}/whole400"} for one in texts)]


def written(echo: str, prompt_file: str, **more: Any) -> str:
    models = more.pop("models", entries(echo))
    return json.dumps(
        {
            "models": models,
            "guardrail": {"system_prompt": f"${{file:{prompt_file}}}"},
            "routing": {
                "retries": 0,
                "cooldown": {"time": 0, "auth_time": 0, "max_time": 0, "failures": 1000},
            },
            "cache": {"semantic": {"backend": "gptcache", "url": f"{echo}/${{SEMANTIC}}"}},
            "tracking": {"promptlayer": {"api_key": "${PROMPTLAYER}", "content": False, "tags": ["${TAG}"]}},
            "projects": {"team": {"guardrail": "Only speak of ${PROJECT_TEXT}."}},
            **more,
        },
        indent=1,
    )


def dotenv(values: Mapping[str, str]) -> str:
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def leaks(text: str) -> list[str]:
    """Parts of secrets, at least eight characters long, in any of the encodings that the upstream uses."""
    found = []
    for secret in EVERY:
        for form in (secret, quote(secret, safe=""), base64.b64encode(f"x:{secret}".encode()).decode()[4:-4]):
            found += [form[i : i + 8] for i in range(len(form) - 7) if form[i : i + 8] in text]
    return found


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory, echo: str, tmp_path_factory: pytest.TempPathFactory) -> Proxy:
    place = tmp_path_factory.mktemp("secrets")
    prompt = place / "prompt.txt"
    prompt.write_text(f"Only code. {PROMPT}\n")
    return module_proxy(
        written(echo, str(prompt)),
        env={**SECRETS, "PROMPTLAYER_API_URL": f"{echo}/whole500", "PROMPT_FILE": str(prompt)},
    )


def names() -> list[str]:
    return [entry["name"] for entry in entries("http://127.0.0.1")]


def test_no_answer_repeats_a_secret(served: Proxy) -> None:
    team = {"authorization": f"Bearer {served.new_key('team')['key']}"}
    statuses = set()
    for name in names():
        if name in ("text", "vectors"):
            continue
        for streamed in (False, True):
            for headers in (served.auth, team) if "whole400" in name else (served.auth,):
                body = {
                    "model": name,
                    "stream": streamed,
                    "messages": [{"role": "user", "content": f"hi {name}"}],
                }
                answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
                statuses.add(answer.status_code)
                assert leaks(answer.text) == [] or "-headers" in name, (name, streamed, answer.text)
                assert leaks(str(answer.headers.raw)) == [], (name, streamed)
    assert {200, 400, 502} <= statuses
    for path, body in (
        ("/v1/completions", {"model": "text", "prompt": "hi"}),
        ("/v1/embeddings", {"model": "vectors", "input": "hi"}),
    ):
        answer = served.client.post(path, json=body, headers=served.auth)
        assert answer.status_code == 400
        assert "[removed]" in answer.json()["error"]["message"]
        assert leaks(answer.text) == []


def test_an_upstream_error_does_not_reveal_user_or_metadata(served: Proxy) -> None:
    who = {"user": "alice@tenant-one.example", "metadata": {"ticket": "TICKET-48151623"}}
    for streamed in (False, True):
        answer = served.chat({"model": "openai_compatible-whole400", "stream": streamed, **who})
        assert answer.status_code == 400
        assert "alice" not in answer.text, answer.text[:1500]
        assert "48151623" not in answer.text


def test_client_errors_keep_their_message(served: Proxy) -> None:
    answer = served.chat(model="openai_compatible-whole400")
    error = answer.json()["error"]
    assert "application/json" in error["message"], "what is no secret stays"
    assert "[removed]" in error["param"]


def test_no_endpoint_shows_a_secret(served: Proxy) -> None:
    shown = {
        "health": served.admin("GET", "/health").text,
        "readiness": served.client.get("/health/readiness").text,
        "rows": served.admin("GET", "/spend/logs", params={"size": 1000}).text,
        "spend": served.admin("GET", "/spend", params={"group_by": "model"}).text,
        "metrics": served.admin("GET", "/metrics").text,
        "models": served.client.get("/v1/models", headers=served.auth).text,
        "log": served.log(),
    }
    assert {name: leaks(text) for name, text in shown.items() if leaks(text)} == {}


def test_reloads_log_no_secret(served: Proxy, echo: str) -> None:
    prompt = str(served.env["PROMPT_FILE"])
    before = served.client.get("/health/readiness").json()["config"]["digest"]
    models = [
        {
            **one,
            "base_url": f"{echo}/${{PARAM}}/whole400",
            "model": "${HEADER}",
            "weight": 2,
            "system_prompt": "${PROJECT_TEXT}",
            "params": {"other": "${PATH_TOKEN}"},
        }
        for one in entries(echo)
    ]
    more = {"tracking": {"promptlayer": {"api_key": "${KEY}", "tags": ["${MODEL}"]}}}
    served.save(written(echo, prompt, models=models, **more))
    until(
        lambda: served.client.get("/health/readiness").json()["config"]["digest"] != before,
        "the new file is in force",
    )
    changes = served.admin("GET", "/health").json()["config"]["changes"]
    assert "literal.base_url changed" in changes
    assert "tracking.promptlayer.tags changed" in changes

    bad = json.loads(written(echo, prompt, models=models))
    bad["models"][0] |= {
        "provider": "${KEY}",
        "base_url": "${HEADER}",
        "fallbacks": ["${PATH_TOKEN}"],
        "weight": "${PARAM}",
        "timeouts": {"connect": "${MODEL}"},
        "mode": "${SEMANTIC}",
        "unknown": "${TAG}",
    }
    bad["projects"] = {"team": {"models": ["${PROJECT_TEXT}"], "limits": {"max_budget": "${VERSION}"}}}
    served.save(json.dumps(bad))
    until(lambda: served.client.get("/health/readiness").json()["config"]["stale"], "the bad file is noticed")
    health = served.admin("GET", "/health").text
    readiness = served.client.get("/health/readiness").text
    assert "max_budget" in readiness
    assert leaks(health + readiness + served.log()) == []


COMMANDS = (
    ("good", "check", "good.yaml", "--online", "--format", "json"),
    ("good", "diff", "good.yaml", "other.yaml"),
    ("good", "explain", "--project", "team", "--config", "good.yaml", "--model", "azure-whole400"),
    ("bad", "check", "bad.yaml"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_print_no_secret(served: Proxy, echo: str, command: tuple[str, ...]) -> None:
    here = served.config_path.parent
    prompt = str(served.env["PROMPT_FILE"])
    few = [one for one in entries(echo) if "400" in one["name"] or "400" in one["base_url"]]
    other = [{**one, "model": "${KEY}-2", "base_url": f"{echo}/${{TAG}}"} for one in few]
    bad = [{**one, "provider": "${KEY}", "weight": "${MODEL}"} for one in few]
    for name, models in {"good": few, "other": other, "bad": bad}.items():
        (here / f"{name}.yaml").write_text(written(echo, prompt, models=models))
    line = [sys.executable, "-m", "codellama_proxy", *command[1:]]
    done = run_forked(line, cwd=here, env=environment(**SECRETS))
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown
    assert shown.strip()
    assert leaks(shown) == []


def test_files_contain_no_secret(proxy: ProxyFactory, echo: str, tmp_path: Any) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT)
    models = [one for one in entries(echo) if one["name"] != "literal"]
    tracking = {"promptlayer": {"api_key": "${PROMPTLAYER}", "content": False}}
    text = written(echo, str(prompt), models=models, tracking=tracking)
    served = proxy(text, env={**SECRETS, "PROMPTLAYER_API_URL": echo})
    served.chat(model="openai_compatible-whole400")
    served.chat(model="openai_compatible-stream-later", stream=True)
    rows = served.rows()
    assert len(rows) == 2
    served.stop()
    files = kept(served, "*")
    del files[served.config_path.name]
    found = b"".join(files.values()).decode("latin-1")
    assert "${PATH_TOKEN}" in found, "the last good file is kept as it was written"
    assert leaks(found) == []
