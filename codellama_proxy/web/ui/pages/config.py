"""The configuration in force, the history of reloads, and drafts, which are checked and never applied."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from codellama_proxy.config.draft import Checked, check
from codellama_proxy.config.effective import effective
from codellama_proxy.config.live import LiveConfig
from codellama_proxy.config.masked_text import masked_lines
from codellama_proxy.config.problems import Problem
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.masking import mask_of
from codellama_proxy.store.interfaces import Reload
from codellama_proxy.web.state import Runtime, runtime_of
from codellama_proxy.web.ui.forms import form
from codellama_proxy.web.ui.render import render
from codellama_proxy.web.ui.state import state_of
from codellama_proxy.web.ui.viewer import Viewer

MAX_FORM_BYTES = 4 * MAX_BYTES
"""Of a draft of `MAX_BYTES`, as forms encode it."""
MAX_NAME_CHARACTERS = 256
MAX_PLAN_CHARACTERS = 2000
MAX_SHOWN_LINES = 5000


class Line(NamedTuple):
    number: int
    text: str
    problem: str
    is_comment: bool


class Trial(NamedTuple):
    """A draft with its result."""

    text: str
    project: str
    model: str
    plan: str
    checked: Checked
    explained: tuple[str, ...] = ()


async def config(request: Request, viewer: Viewer) -> Response:
    """The page, for the operator."""
    del viewer
    return await _page(request, None)


async def try_draft(request: Request, viewer: Viewer) -> Response:
    """The page with the result of a draft. Raises `ProxyError` 413, 503."""
    del viewer
    fields = await form(request, MAX_FORM_BYTES)
    text = fields.get("draft", "").replace("\r\n", "\n")
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise ProxyError("request_too_large", "A draft has at most 1 MiB.")
    drafts = state_of(request).drafts
    if drafts.locked():
        raise ProxyError("overloaded", "Another draft is being checked.", retry_after=2.0)
    project = fields.get("project", "")[:MAX_NAME_CHARACTERS] or "default"
    model = fields.get("model", "")[:MAX_NAME_CHARACTERS]
    plan = fields.get("plan", "")[:MAX_PLAN_CHARACTERS]
    async with drafts:
        trial = await asyncio.to_thread(_trial, runtime_of(request), text, project, model, plan)
    return await _page(request, trial)


def _trial(runtime: Runtime, text: str, project: str, model: str, plan: str) -> Trial:
    from codellama_proxy.diagnostics.what_if import explained  # noqa: PLC0415 - simulations are rare

    live = runtime.live
    checked = check(text.encode(errors="replace"), live.text, live.snapshot, live.source)
    lines: tuple[str, ...] = ()
    if checked.snapshot is not None:
        clean = mask_of(live.snapshot)
        found = explained(checked.snapshot, project, model or None, plan, runtime.time.wall())
        lines = tuple([clean(line) for line in found])
    return Trial(text, project, model, plan, checked, lines)


async def _page(request: Request, trial: Trial | None) -> Response:
    runtime = runtime_of(request)
    live = runtime.live
    lines = await asyncio.to_thread(_lines, live)
    return render(
        request,
        "config.html",
        lines=lines,
        problems=live.problems,
        error=_error(live),
        values=await asyncio.to_thread(effective, live.snapshot),
        reloads=_anchored(await runtime.store.configurations.reloads()),
        loaded_at=live.loaded_at,
        warnings=live.snapshot.warnings,
        trial=trial,
    )


def _anchored(reloads: Sequence[Reload]) -> list[tuple[Reload, str]]:
    """The history, with an anchor at the reload that brought each digest."""
    first = {reload.digest: place for place, reload in enumerate(reloads) if reload.ok}
    return [
        (reload, f"of-{reload.digest}" if first.get(reload.digest) == place else "")
        for place, reload in enumerate(reloads)
    ]


def _error(live: LiveConfig) -> str:
    """What is wrong with the file, if no line can be named."""
    return "" if live.problems or live.error is None else live.error


def _lines(live: LiveConfig) -> list[Line]:
    """The file as it is now, its secrets masked."""
    wrong = _by_line(live.problems)
    shown = masked_lines(live.file_text or live.text, mask_of(live.snapshot), MAX_SHOWN_LINES)
    return [
        Line(number, text, wrong.get(number, ""), text.lstrip().startswith("#"))
        for number, text in enumerate(shown, 1)
    ]


def _by_line(problems: tuple[Problem, ...]) -> dict[int, str]:
    found: dict[int, Any] = {}
    for problem in problems:
        found.setdefault(problem.line, []).append(problem.message)
    return {line: "; ".join(messages) for line, messages in found.items()}
