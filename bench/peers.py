"""Other gateways, each in an environment of its own under `.bench/`, set up for the same work as near as they offer.

What is installed is pinned in `bench/pinned/`, all of it. Packages run no code of theirs while they are installed.
Who cannot be installed, does not come up or answers something else is named and left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from bench.instant import TEXT, WORDS
from bench.processes import NotUp, free_port
from bench.targets import Target, ask, at, serving

ROOT = Path(__file__).resolve().parent.parent
INSTALLED, PINNED = ROOT / ".bench", ROOT / "bench" / "pinned"
LITELLM, PORTKEY = PINNED / "litellm.txt", PINNED / "package.json"
LOCAL = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
KEY = "sk-bench-0123456789abcdef"
LITELLM_CONFIG = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/instant, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: {key}}}
"""
NOTE = """\
The others are set up for the same work as near as they offer, and do less of it than the proxy: LiteLLM's proxy
checks its master key, but has no database, so no keys of projects, limits or ledger; Portkey's gateway checks no key
and keeps no books. Neither has a guardrail here or writes a line for each request. Both run one worker, as their
documentation starts them, logs quiet. Of streams, Portkey's gateway holds each back for 25 ms by itself."""


class Absent(Exception):  # noqa: N818 - a state, not a mistake
    """A peer cannot be measured here; the message says why."""


def started(stack: contextlib.ExitStack, upstream: Target, directory: Path) -> tuple[list[Target], str]:
    """Those that can be measured, until the stack ends; and what has to be known of them and of those that cannot."""
    found: list[Target] = []
    notes = []
    for name, peer in PEERS.items():
        try:
            found.append(right(stack.enter_context(peer(upstream, directory))))
        except (Absent, NotUp) as error:
            notes.append(f"**{name} was not measured**: {error}.")
            print(f"\n!!! {name} is not measured: {error}\n", file=sys.stderr)
    return found, "\n\n".join([NOTE] * bool(found) + notes)


def right(target: Target) -> Target:
    """The target, if it passes on what the upstream says: errors are answered fast, too."""
    status, body = ask(target)
    if status != 200 or answer_text(body) != TEXT:
        raise Absent(f"{target.name} answered {status} {body[:200]!r}")
    status, body = ask(target, stream=True)
    if status != 200 or said_streaming(body) != "".join(WORDS):
        raise Absent(f"{target.name} streamed {status} {body[:200]!r}")
    return target


def answer_text(body: bytes) -> str | None:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(json.loads(body)["choices"][0]["message"]["content"])
    return None


def said_streaming(body: bytes) -> str | None:
    """What the deltas come to, if the stream has its end."""
    events = re.findall(rb"^data: (.*?)\r?$", body, re.MULTILINE)
    if not events or events[-1] != b"[DONE]":
        return None
    with contextlib.suppress(ValueError, LookupError, TypeError):
        chunks = [json.loads(event) for event in events[:-1]]
        return "".join(one["delta"].get("content") or "" for chunk in chunks for one in chunk["choices"])
    return None


# --- LiteLLM's proxy ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def litellm(upstream: Target, directory: Path) -> Iterator[Target]:
    place = installed("litellm", LITELLM, _install_litellm)
    (directory / "litellm.yaml").write_text(LITELLM_CONFIG.format(port=upstream.port, key=KEY))
    port = free_port()
    command = [str(place / "bin/litellm"), "--config", str(directory / "litellm.yaml"), "--num_workers", "1"]
    env = {
        **LOCAL,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks the network at its start
    }
    target = Target(f"LiteLLM {version(LITELLM, 'litellm')}", at(port), KEY)
    address = ["--host", "127.0.0.1", "--port", str(port)]
    with serving(target, [*command, *address], env, directory / "litellm.log") as served:
        yield served


def _install_litellm(place: Path) -> None:
    run(sys.executable, "-m", "venv", place)
    pip = (place / "bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    run(*pip, "--no-deps", "--only-binary", ":all:", "--requirement", LITELLM)


# --- Portkey's gateway -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def portkey(upstream: Target, directory: Path) -> Iterator[Target]:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise Absent("it needs node and npm on the PATH")
    place = installed("portkey", PORTKEY.with_name("package-lock.json"), _install_portkey)
    server = place / "node_modules/@portkey-ai/gateway/build/start-server.js"
    port = free_port()
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream.port}/v1",
    }
    env = {**LOCAL, "NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    target = Target(f"Portkey {version(PORTKEY, 'gateway')}", at(port), KEY, headers=headers)
    command = [node, str(server), f"--port={port}", "--headless"]
    with serving(target, command, env, directory / "portkey.log") as served:
        yield served


def _install_portkey(place: Path) -> None:
    place.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, place / name)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--prefix", place)


PEERS: dict[str, Callable[[Target, Path], AbstractContextManager[Target]]] = {
    "LiteLLM's proxy": litellm,
    "Portkey's gateway": portkey,
}


# --- environments ------------------------------------------------------------------------------------------------


def installed(name: str, pins: Path, install: Callable[[Path], None]) -> Path:
    """Where it is; installed first if these pins are not there yet, or not for this Python."""
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    place = INSTALLED / name
    stamp = place / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return place
    print(f"Installing {name} into {place.relative_to(ROOT)} (once) ...", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    install(place)
    stamp.write_text(wanted)
    return place


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Absent(f"`{Path(command[0]).name}` could not install it: {last}")


def version(pins: Path, package: str) -> str:
    """What a file of pins says of a package."""
    found = re.search(rf'{package}(?:==|": ")([0-9][0-9a-z.]*)', pins.read_text())
    return found[1] if found else "of unknown version"
