"""Counts what nobody reported: the tokenizers, loaded when they are first needed and never on the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from codellama_proxy import tokens
from codellama_proxy.chat import ChatRequest, several
from codellama_proxy.tokens import LARGE, Tokenizers
from codellama_proxy.types import Deployment, Snapshot, Usage


def tokenizer_files() -> Path:
    """Where scripts/install put the vocabularies; `TIKTOKEN_CACHE_DIR` says otherwise."""
    return Path(os.environ.get("TIKTOKEN_CACHE_DIR") or Path(sys.prefix) / "share" / "tiktoken")


class Counter:
    """Tokens of prompts and answers. Without vocabulary files everything is an estimate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tokenizers: Tokenizers | None = None
        self._loading: asyncio.Lock = asyncio.Lock()

    async def usage(self, chat: ChatRequest, answer: str, deployment: Deployment) -> Usage:
        """What this exchange used, as near as we can tell."""
        prompt = await self.prompt(chat, deployment)
        if not answer:
            return Usage(prompt)
        loaded = await self._loaded()
        completion, _ = await loaded.count_aside(answer, _known_name(deployment))
        return Usage(prompt, completion)

    async def prompt(self, chat: ChatRequest, deployment: Deployment) -> int:
        """Tokens of everything `chat` sends."""
        loaded = await self._loaded()
        model = _known_name(deployment)

        def one(text: str) -> int:
            return loaded.count(text, model)[0]

        def count() -> int:
            if chat.endpoint != "chat/completions":
                return tokens.of_given([*several(chat.given), chat.params.get("suffix", "")], one)
            tools = [*chat.params.get("tools", ()), *chat.params.get("functions", ())]
            return tokens.of_chat(chat.messages, tools, one)

        return await asyncio.to_thread(count) if chat.size >= LARGE else count()

    async def texts(self, chat: ChatRequest) -> list[str] | None:
        """What the token ids it gives say; `None` if there is no telling."""
        loaded = await self._loaded()

        def decode() -> list[str | None]:
            return [one if isinstance(one, str) else loaded.decode(one) for one in several(chat.given)]

        found = await asyncio.to_thread(decode) if chat.size >= LARGE else decode()
        known = [text for text in found if text is not None]
        return known if len(known) == len(found) else None

    async def warm(self, snapshot: Snapshot) -> None:
        """Loads the vocabularies ahead of the first request where that request will wait for a count."""
        limits = [*snapshot.limits.values(), *(project.limits for project in snapshot.projects.values())]
        if any(limit.tpm_limit is not None for limit in limits):
            await self._loaded()

    async def _loaded(self) -> Tokenizers:
        async with self._loading:
            if self._tokenizers is None:
                self._tokenizers = await asyncio.to_thread(tokens.load, self._directory)
        return self._tokenizers


def _known_name(deployment: Deployment) -> str:
    return deployment.base_model or deployment.model
