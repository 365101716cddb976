"""proxy.yaml to a `Snapshot`, or to everything that is wrong with it; never to something in between."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from codellama_proxy.config import build
from codellama_proxy.config import secret_values as hidden
from codellama_proxy.config.digest import keyed
from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.schema import File
from codellama_proxy.config.validate import cross_field as checks
from codellama_proxy.config.validate import unreachable as reach
from codellama_proxy.config.validate.credentials import with_customary
from codellama_proxy.config.validate.finding import Entries
from codellama_proxy.config.validate.messages import at, findings
from codellama_proxy.config.validate.partial import Rest, rest_of
from codellama_proxy.config.yaml.document import Document, Path, parse
from codellama_proxy.config.yaml.substitution import lookup_in
from codellama_proxy.core.masking import Mask
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.providers.registry import UNSUPPORTED_BY_MODE

_Found = list[Problem]
DEFAULT_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Loaded:
    snapshot: Snapshot
    warnings: tuple[Problem, ...]


def load(
    text: bytes, environ: Mapping[str, str], *, source: str = "proxy.yaml", implemented: frozenset[str]
) -> Snapshot:
    """Raises `ConfigError`. `implemented` are the providers this version can speak to."""
    return examine(text, environ, source=source, implemented=implemented).snapshot


def examine(
    text: bytes, environ: Mapping[str, str], *, source: str = "proxy.yaml", implemented: frozenset[str]
) -> Loaded:
    """`load`, with the warnings' positions."""
    lookup = lookup_in(environ)
    document = with_customary(parse(text, lookup, source=source), lookup)
    problems = [Problem(*place, message, source=source) for place, message in document.problems]
    problems += [Problem(*place, message, source=source) for place, message in _unset(document)]
    file, entries = _validated(document, problems, source)
    for remark in checks.remarks(file, entries) if file and entries else ():
        place, message = at(document, remark.path, remark.message)
        problems.append(Problem(*place, message, remark.severity, source))
    if file and entries:
        problems += _disabled(document, entries, implemented, source)
        problems += _of_whole(document, _with_all(file, entries, implemented), file, entries, source)
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(_in_order(problems, document))
    assert file is not None
    assert entries is not None
    deployments = _deployments(file, document, implemented)
    last: tuple[Problem, ...] = ()
    if all(d.disabled is not None for d in deployments):
        deployments.append(_built_in_mock(deployments, file))
        last = (Problem(*document.position(("models",)), _MOCK_ADDED, "warning", source),)
    fingerprint = _fingerprint(text, document)
    snapshot = replace(
        build.snapshot(file, deployments, digest=keyed(fingerprint)),
        fingerprint=fingerprint,
        secrets=hidden.secrets_of(document),
        hidden=hidden.places(document, (entry.name for entry in file.models)),
    )
    problems += _of_whole(document, snapshot, file, entries, source)
    host = environ.get("PROXY_HOST") or DEFAULT_HOST
    for remark in (*reach.guardrails(snapshot, file, entries), *checks.open_door(file, host)):
        place, message = at(document, remark.path, remark.message)
        problems.append(Problem(*place, message, remark.severity, source))
    warnings = _in_order(problems, document) + last
    return Loaded(replace(snapshot, warnings=tuple(problem.message for problem in warnings)), warnings)


def _with_all(file: File, entries: Entries, implemented: frozenset[str]) -> Snapshot:
    """As if every key were set: whether one is here and now must not hide what is wrong with the file."""
    numbers: Counter[str] = Counter()
    deployments = []
    for entry in entries.by_index.values():
        numbers[entry.name] += 1
        unable = _unable(entry, implemented)
        deployments.append(build.deployment(entry, numbers[entry.name], file.timeouts, unable))
    return build.snapshot(file, deployments, digest="")


def _of_whole(
    document: Document, snapshot: Snapshot, file: File, entries: Entries, source: str
) -> Iterator[Problem]:
    """What can never happen with this configuration."""
    for remark in reach.unpriced(snapshot, entries):
        yield Problem(*document.position(remark.path), remark.message, "warning", source)
    for remark in reach.remarks(snapshot, file, entries):
        place, message = at(document, remark.path, remark.message)
        yield Problem(*place, message, remark.severity, source)


_MOCK_ADDED = 'no model can be used, so the built-in model "mock" answers; it makes its answers up'


def _in_order(problems: _Found, document: Document) -> tuple[Problem, ...]:
    """Each once, and without what `${...}` put in."""
    clean = Mask(secret.reveal() for secret in hidden.secrets_of(document))
    shown = dict.fromkeys(replace(problem, message=clean(problem.message)) for problem in problems)
    return tuple(sorted(shown, key=lambda problem: (problem.line, problem.column)))


def _fingerprint(text: bytes, document: Document) -> bytes:
    digest = hashlib.sha256(text)
    for name, value in document.inputs:
        digest.update(f"\0{name}\0{value}".encode(errors="surrogateescape"))
    return digest.digest()


def _may_be_unset(path: Path) -> bool:
    match path:
        case ("models", int(), "api_key") | ("tracking", "promptlayer", "api_key"):
            return True
    return False


def _unset(document: Document) -> Iterator[tuple[tuple[int, int], str]]:
    for path, why in document.missing.items():
        if why and not _may_be_unset(path):
            yield at(document, path, why)


def _validated(document: Document, problems: _Found, source: str) -> tuple[File | None, Entries | None]:
    """The file, without what had to be refused, so that one run can report the rest as well."""
    root = document.root
    if not isinstance(root, dict):
        problems.append(Problem(*document.position(()), "expected a mapping with `models:`", source=source))
        return None, None
    try:
        file = File.model_validate(root)
        rest: Rest | None = Rest(file, tuple(range(len(file.models))))
    except ValidationError as error:
        found = findings(document, error)
        problems += [Problem(*place, message, source=source) for place, message in found]
        rest = rest_of(root)
    return (None, None) if rest is None else (rest.file, entries_of(rest, document))


def entries_of(rest: Rest, document: Document) -> Entries:
    models = document.root.get("models")
    written = models if isinstance(models, list) else []
    names = (entry.get("name") for entry in written if isinstance(entry, dict))
    return Entries(
        by_index=dict(zip(rest.indexes, rest.file.models, strict=True)),
        names=tuple(str(name) for name in names if name is not None),
        hidden=frozenset(document.substituted),
        unknown=frozenset(document.missing) | rest.refused,
    )


def _deployments(file: File, document: Document, implemented: frozenset[str]) -> list[Deployment]:
    numbers: Counter[str] = Counter()
    found = []
    for index, entry in enumerate(file.models):
        numbers[entry.name] += 1
        disabled = _unable(entry, implemented) or document.missing.get(("models", index, "api_key"))
        made = build.deployment(entry, numbers[entry.name], file.timeouts, disabled, file.egress)
        found.append(replace(made, secrets=hidden.entrys_secrets(document, index)))
    return found


def _unable(entry: Entry, implemented: frozenset[str]) -> str | None:
    """Why no key would help."""
    if entry.provider not in implemented:
        return f"provider {entry.provider} is not available in this version"
    return (
        f"provider {entry.provider} has no mode {entry.mode}"
        if entry.provider in UNSUPPORTED_BY_MODE[entry.mode]
        else None
    )


def _built_in_mock(deployments: list[Deployment], file: File) -> Deployment:
    number = 1 + sum(d.name == build.BUILT_IN_MOCK.name for d in deployments)
    return replace(build.deployment(build.BUILT_IN_MOCK, number, file.timeouts, None), disabled=None)


def _disabled(
    document: Document, entries: Entries, implemented: frozenset[str], source: str
) -> Iterator[Problem]:
    for index, entry in entries.by_index.items():
        path: Path = ("models", index)
        known = not {(*path, "provider"), (*path, "mode")} & entries.unknown
        why = (_unable(entry, implemented) if known else None) or document.missing.get((*path, "api_key"))
        if why:
            name = f"models[{index}]" if (*path, "name") in entries.unknown else entry.name
            message = f"{name} is disabled: {why}"
            yield Problem(*document.position((*path, "api_key")), message, "warning", source)
