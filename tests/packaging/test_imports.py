"""A start imports only what it needs, and a reload imports what the new file needs beside the event loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.cases import each

START = """\
import codellama_proxy.__main__, codellama_proxy.cli.serve, codellama_proxy.server.process
from pathlib import Path
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.providers.registry import IMPLEMENTED
LiveConfig(Source(Path({file!r}), dict, IMPLEMENTED))
"""
RELOAD = """\
import asyncio, json, sys, threading
from pathlib import Path
from codellama_proxy.config.live import LiveConfig, Source
from codellama_proxy.providers.registry import ADAPTERS_BY_ENDPOINT, IMPLEMENTED

imported = {}

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("codellama_proxy.providers."):
            imported[name] = threading.current_thread() is threading.main_thread()

async def main():
    file = Path(sys.argv[1])
    live = LiveConfig(Source(file, dict, IMPLEMENTED))
    file.write_text(sys.argv[2])
    sys.meta_path.insert(0, Watch())
    await live.poll()
    assert live.reloads == 1, live.error
    at_reload = dict(imported)
    for model in live.snapshot.models.values():
        for deployment in model.deployments:
            ADAPTERS_BY_ENDPOINT["chat/completions"][deployment.provider]
    print(json.dumps([at_reload, [name for name in imported if name not in at_reload]]))

asyncio.run(main())
"""
ENTRY = "models: [{{name: m, provider: {provider}, model: m, api_key: sk-x}}]\n"
NOT_AT_START = (
    "codellama_proxy.cache.semantic.gptcache",
    "codellama_proxy.config.importers",
    "codellama_proxy.config.json_schema",
    "codellama_proxy.diagnostics.probe",
    "codellama_proxy.diagnostics.simulation",
    "codellama_proxy.providers.ai21",
    "codellama_proxy.providers.anthropic",
    "codellama_proxy.providers.cohere",
    "codellama_proxy.providers.openai.completions",
    "codellama_proxy.providers.replicate",
    "codellama_proxy.tracking.otel_exporter",
    "genai_prices",
    "httpx2",
    "opentelemetry",
    "pytest",
    "tiktoken",
)
"""Imported when a configuration, a request or another command needs it."""
NOT_FOR_CHECK = ("codellama_proxy.diagnostics", "codellama_proxy.upstream", "starlette", "uvicorn")
NOT_FOR_KEYS = (*NOT_FOR_CHECK, "dotenv", "prometheus_client", "pydantic", "yaml")


def run(code: str, *arguments: object) -> Any:
    """What the code prints as JSON, run by an interpreter of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def imports_of(code: str) -> set[str]:
    return set(run(f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"))


def test_a_plain_start_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(ENTRY.format(provider="openai"))
    found = imports_of(START.format(file=str(file)))
    assert "codellama_proxy.providers.openai.adapter" in found
    assert not found.intersection(NOT_AT_START)


@each(("command", "without"), [("check", NOT_FOR_CHECK), ("keys", NOT_FOR_KEYS)])
def test_a_command_imports_no_more_than_it_needs(command: str, without: tuple[str, ...]) -> None:
    found = imports_of(f"import codellama_proxy.__main__, codellama_proxy.cli.{command}")
    assert f"codellama_proxy.cli.{command}" in found
    assert not found.intersection(without)


def test_a_reload_imports_a_new_provider_beside_the_event_loop(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(ENTRY.format(provider="openai"))
    at_reload, later = run(RELOAD, file, ENTRY.format(provider="anthropic"))
    assert "codellama_proxy.providers.anthropic.adapter" in at_reload
    assert not any(at_reload.values()), "imported on the thread of the event loop"
    assert later == []
