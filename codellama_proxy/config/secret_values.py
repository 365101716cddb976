"""The values that `${...}` put into a configuration, which are never shown, and where they are. Pure.

Not secret are the names that callers use, and the words that the file chooses from. Short numbers and flags would
make every text unreadable: they are hidden by their place alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from codellama_proxy.config.schema import File
from codellama_proxy.config.yaml.document import Document, Path
from codellama_proxy.config.yaml.scalars import resolve
from codellama_proxy.core.masking import credentials
from codellama_proxy.core.snapshot import Secret, Snapshot

MIN_SECRET_DIGITS = 8
"""A number with this many digits may be a secret."""


def secrets_of(document: Document) -> frozenset[Secret]:
    """Every secret of the file."""
    return _secret(value for path, values in document.substituted.items() for value in _of(path, values))


def secrets_of_entry(document: Document, index: int) -> frozenset[Secret]:
    """The secrets that an upstream may receive: those in its entry and in the guardrails."""
    found = (
        value
        for path, values in document.substituted.items()
        if path[:2] == ("models", index) or "guardrail" in path
        for value in _of(path, values)
    )
    return _secret(found)


def secret_paths(document: Document, names: Iterable[str]) -> frozenset[str]:
    """The paths of substituted values, such as `models.NAME#1.base_url`. `names` are those of the entries, in order."""
    ids = tuple(_ids(names))
    return frozenset(_dotted(path, ids) for path in document.substituted)


def contains_secret(text: bytes, snapshot: Snapshot) -> bool:
    """Whether the text of a configuration has a secret in it, instead of a `${...}` that names one."""
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    secrets = [secret for d in (*enabled, *snapshot.disabled) for secret in credentials(d)]
    if snapshot.tracking.promptlayer_key is not None:
        secrets.append(snapshot.tracking.promptlayer_key.reveal())
    return any(secret.encode() in text for secret in secrets if secret)


def _ids(names: Iterable[str]) -> Iterator[str]:
    numbers: dict[str, int] = {}
    for name in names:
        numbers[name] = numbers.get(name, 0) + 1
        yield f"{name}#{numbers[name]}"


def _dotted(path: Path, ids: tuple[str, ...]) -> str:
    if len(path) > 1 and path[0] == "models" and isinstance(path[1], int) and path[1] < len(ids):
        path = ("models", ids[path[1]], *path[2:])
    return ".".join(map(str, path))


def _of(path: Path, values: tuple[str, ...]) -> tuple[str, ...]:
    return () if _is_public_name(path) else values


def _is_public_name(path: Path) -> bool:
    match path:
        case ("models", int(), "name") | ("models", int(), "fallbacks", int()):
            return True
        case ("projects", str(), "models", int()) | ("cache", "semantic", "model") | ("aliases", str()):
            return True
    return False


def _secret(values: Iterable[str]) -> frozenset[Secret]:
    return frozenset(Secret(value) for value in values if not _is_plain(value))


def _is_plain(value: str) -> bool:
    if value in VOCABULARY:
        return True
    return not isinstance(resolve(value.strip()), str) and len(value) < MIN_SECRET_DIGITS


def _vocabulary(annotation: Any, seen: set[Any]) -> Iterator[str]:
    """The words that a file may choose from."""
    if isinstance(annotation, str):
        yield annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for field in annotation.model_fields.values():
            yield from _vocabulary(field.annotation, seen)
    for argument in get_args(annotation):
        yield from _vocabulary(argument, seen)


VOCABULARY = frozenset(_vocabulary(File, set()))
