"""Parts of a Responses item as the parts of a chat message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.responses.refusals import stored
from codellama_proxy.openai_format.fields import invalid_type
from codellama_proxy.openai_format.request import CACHE_MARKS

TEXT_FIELDS: Mapping[str, str] = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "refusal": "refusal",
}
"""Types of parts that are text, and the field that has it."""
DETAILS = ("auto", "low", "high")
"""Values of an image's `detail` that chats have."""

BETWEEN_TEXTS = "\n\n"

Part = dict[str, Any]


def content_of(content: object, at: str, ignored: list[str]) -> str | list[Part]:
    """A message's content: a string if it is text without marks, else parts. Names of unknown parts go to `ignored`.

    Raises `ProxyError` with status 400 and `param`.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid_type(at, "string or array")
    parts = [
        part
        for index, one in enumerate(content)
        if (part := _part(one, f"{at}[{index}]", ignored)) is not None
    ]
    if all(part.keys() == {"type", "text"} for part in parts):
        return BETWEEN_TEXTS.join([part["text"] for part in parts])
    return parts


def text_of(content: str | list[Part]) -> str:
    """The text alone."""
    if isinstance(content, str):
        return content
    return BETWEEN_TEXTS.join([part["text"] for part in content if part["type"] == "text"])


def _part(part: object, at: str, ignored: list[str]) -> Part | None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise invalid_type(at, "object with a 'type'")
    match kind:
        case "input_text" | "output_text" | "text" | "refusal":
            found = {"type": "text", "text": _string(part, TEXT_FIELDS[kind], at)}
        case "input_image":
            found = _image(part, at)
        case "input_file":
            found = _file(part, at)
        case "input_audio" if isinstance(part.get("input_audio"), dict):
            found = {"type": kind, "input_audio": part["input_audio"]}
        case _:
            ignored.append(f"input.{kind}")
            return None
    return {**found, **{name: part[name] for name in CACHE_MARKS if name in part}}


def _image(part: Mapping[str, Any], at: str) -> Part:
    if part.get("file_id") is not None:
        raise stored("file_id", f"{at}.file_id")
    image = {"url": _string(part, "image_url", at)}
    if part.get("detail") in DETAILS:
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Mapping[str, Any], at: str) -> Part:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise stored(name, f"{at}.{name}")
    file = {"file_data": _string(part, "file_data", at)}
    if isinstance(part.get("filename"), str):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _string(part: Mapping[str, Any], name: str, at: str) -> str:
    found = part.get(name)
    if found is None:
        raise ProxyError("missing_required_parameter", f"'{at}.{name}' is required.", param=f"{at}.{name}")
    if not isinstance(found, str):
        raise invalid_type(f"{at}.{name}", "string")
    return found
