"""Counts what nobody reported: the tokenizers, loaded when they are first needed and never on the event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

from codellama_proxy import tokens
from codellama_proxy.chat import ChatRequest
from codellama_proxy.tokens import LARGE, Tokenizers
from codellama_proxy.types import Deployment, Usage


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

        def count() -> int:
            tools = [*chat.params.get("tools", ()), *chat.params.get("functions", ())]
            return tokens.of_chat(chat.messages, tools, lambda text: loaded.count(text, model)[0])

        return await asyncio.to_thread(count) if chat.size >= LARGE else count()

    async def _loaded(self) -> Tokenizers:
        async with self._loading:
            if self._tokenizers is None:
                self._tokenizers = await asyncio.to_thread(tokens.load, self._directory)
        return self._tokenizers


def _known_name(deployment: Deployment) -> str:
    return deployment.base_model or deployment.model
