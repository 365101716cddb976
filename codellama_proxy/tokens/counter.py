"""Counts tokens that no upstream reported. Tokenizers are loaded on first use, off the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.core.types import Usage
from codellama_proxy.openai_format.request import InferenceRequest, several
from codellama_proxy.tokens import tokenizers as tokens
from codellama_proxy.tokens.tokenizers import (
    LARGE_CHARACTERS,
    MAX_COUNTED_MESSAGES,
    OF_IDS,
    Tally,
    Tokenizers,
    encoding_name,
)


def tokenizer_files() -> Path:
    """The directory of the vocabularies: `TIKTOKEN_CACHE_DIR`, else where scripts/install puts them."""
    return Path(os.environ.get("TIKTOKEN_CACHE_DIR") or Path(sys.prefix) / "share" / "tiktoken")


class Counter:
    """Counts tokens of prompts and answers; estimates them without vocabulary files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tokenizers = Tokenizers({})
        self._loading: asyncio.Lock = asyncio.Lock()

    async def usage(self, chat: InferenceRequest, answer: str, deployment: Deployment) -> Usage:
        """The counted usage of a request and the text of its answer."""
        prompt = await self.prompt(chat, deployment)
        if not answer:
            return Usage(prompt)
        completion, _ = await self._tokenizers.count_in_thread(answer, _known_name(deployment))
        return Usage(prompt, completion)

    async def prompt(self, chat: InferenceRequest, deployment: Deployment) -> int:
        """Number of prompt tokens of `chat`."""
        model = _known_name(deployment)
        await self._load(encoding_name(model))

        def one(text: str) -> int:
            return self._tokenizers.count(text, model)[0]

        def count() -> int:
            tally = Tally(one)
            if chat.endpoint != "chat/completions":
                return tokens.of_given([*several(chat.given), chat.params.get("suffix", "")], tally)
            tools = [*chat.params.get("tools", ()), *chat.params.get("functions", ())]
            if len(chat.messages) + len(tools) > MAX_COUNTED_MESSAGES:
                return tokens.of_size(chat.size)
            return tokens.of_chat(chat.messages, tools, tally)

        return await asyncio.to_thread(count) if chat.size >= LARGE_CHARACTERS else count()

    async def texts(self, chat: InferenceRequest) -> list[str] | None:
        """The texts of the request's token ids; `None` if they cannot be decoded."""
        await self._load(OF_IDS)

        def decode() -> list[str | None]:
            given = several(chat.given)
            return [one if isinstance(one, str) else self._tokenizers.decode(one) for one in given]

        found = await asyncio.to_thread(decode) if chat.size >= LARGE_CHARACTERS else decode()
        known = [text for text in found if text is not None]
        return known if len(known) == len(found) else None

    async def warm(self, snapshot: Snapshot) -> None:
        """Loads vocabularies at the start if requests will wait for a count."""
        limits = [*snapshot.limits.values(), *(project.limits for project in snapshot.projects.values())]
        if any(limit.tpm_limit is not None for limit in limits):
            for name in {
                encoding_name(_known_name(d)) for m in snapshot.models.values() for d in m.deployments
            }:
                await self._load(name)

    async def _load(self, name: str) -> None:
        loaded = self._tokenizers.encodings
        if name not in loaded:
            async with self._loading:
                if name not in loaded:
                    loaded[name] = await asyncio.to_thread(tokens.load, name, self._directory)


def _known_name(deployment: Deployment) -> str:
    return deployment.base_model or deployment.model
