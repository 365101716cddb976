"""A conversation as one text, for models that complete texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Turn = tuple[str, str]
"""Who, `user` or `assistant`, says what."""


def prompt(system: str, turns: Sequence[Turn], form: str) -> str:
    """The whole conversation, to be continued by the assistant. A single question needs no form."""
    if not system and len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return FORMS[form](system, turns)


def plain(system: str, turns: Sequence[Turn]) -> str:
    if len(turns) == 1 and turns[0][0] == "user":
        return f"{system}\n\n{turns[0][1]}"
    named = [("System", system)] if system else []
    lines = [f"{who}: {text}" for who, text in (*named, *((role.title(), text) for role, text in turns))]
    return "\n\n".join([*lines, "Assistant:"])


def llama2(system: str, turns: Sequence[Turn]) -> str:
    """Without the token a text begins with: the server adds it."""
    first = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    pieces: list[str] = []
    for role, text in turns:
        if role == "user":
            pieces.append(f"[INST] {first}{text} [/INST]")
            first = ""
        else:
            pieces.append(text)
    if first:
        pieces.insert(0, f"[INST] {first.rstrip()} [/INST]")
    return " ".join(pieces)


def chatml(system: str, turns: Sequence[Turn]) -> str:
    named = [("system", system)] if system else []
    lines = [f"<|im_start|>{role}\n{text}<|im_end|>" for role, text in (*named, *turns)]
    return "\n".join([*lines, "<|im_start|>assistant\n"])


FORMS: Mapping[str, Callable[[str, Sequence[Turn]], str]] = {
    "plain": plain,
    "llama2": llama2,
    "chatml": chatml,
}
