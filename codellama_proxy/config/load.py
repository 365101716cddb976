"""proxy.yaml to a `Snapshot`, or to everything that is wrong with it; never to something in between."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from codellama_proxy.config import build, checks, hidden, reach
from codellama_proxy.config.document import Document, Path, parse
from codellama_proxy.config.explain import at, findings
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.salvage import Rest, rest_of
from codellama_proxy.config.schema import File
from codellama_proxy.config.substitution import lookup_in
from codellama_proxy.masking import Mask
from codellama_proxy.providers import UNABLE
from codellama_proxy.types import Deployment, Snapshot

_Found = list[Problem]


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
    document = parse(text, lookup_in(environ), source=source)
    problems = [Problem(*place, message, source=source) for place, message in document.problems]
    problems += [Problem(*place, message, source=source) for place, message in _unset(document)]
    file, entries = _validated(document, problems, source)
    for remark in checks.remarks(file, entries) if file and entries else ():
        place, message = at(document, remark.path, remark.message)
        problems.append(Problem(*place, message, remark.severity, source))
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(_in_order(problems, document))
    assert file is not None
    assert entries is not None
    deployments = _deployments(file, document, implemented)
    problems += _disabled(document, deployments, source)
    last: tuple[Problem, ...] = ()
    if all(d.disabled is not None for d in deployments):
        deployments.append(_built_in_mock(deployments, file))
        last = (Problem(*document.position(("models",)), _MOCK_ADDED, "warning", source),)
    snapshot = replace(
        build.snapshot(file, deployments, digest=_digest(text, document)),
        secrets=hidden.secrets_of(document),
        hidden=hidden.places(document, (entry.name for entry in file.models)),
    )
    for remark in reach.unpriced(snapshot, entries):
        problems.append(Problem(*document.position(remark.path), remark.message, "warning", source))
    for remark in reach.remarks(snapshot, file, entries):
        place, message = at(document, remark.path, remark.message)
        problems.append(Problem(*place, message, remark.severity, source))
    warnings = _in_order(problems, document) + last
    return Loaded(replace(snapshot, warnings=tuple(problem.message for problem in warnings)), warnings)


_MOCK_ADDED = 'no model can be used, so the built-in model "mock" answers; it makes its answers up'


def _in_order(problems: _Found, document: Document) -> tuple[Problem, ...]:
    """Each once, and without what `${...}` put in."""
    clean = Mask(secret.reveal() for secret in hidden.secrets_of(document))
    shown = dict.fromkeys(replace(problem, message=clean(problem.message)) for problem in problems)
    return tuple(sorted(shown, key=lambda problem: (problem.line, problem.column)))


def _digest(text: bytes, document: Document) -> str:
    digest = hashlib.sha256(text)
    for name, value in document.inputs:
        digest.update(f"\0{name}\0{value}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def _may_be_unset(path: Path) -> bool:
    match path:
        case ("models", int(), "api_key") | ("tracking", "promptlayer", "api_key"):
            return True
    return False


def _unset(document: Document) -> Iterator[tuple[tuple[int, int], str]]:
    for path, why in document.missing.items():
        if why and not _may_be_unset(path):
            yield at(document, path, why)


def _validated(
    document: Document, problems: _Found, source: str
) -> tuple[File | None, checks.Entries | None]:
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
    return (None, None) if rest is None else (rest.file, _entries(rest, document))


def _entries(rest: Rest, document: Document) -> checks.Entries:
    models = document.root.get("models")
    written = models if isinstance(models, list) else []
    names = (entry.get("name") for entry in written if isinstance(entry, dict))
    return checks.Entries(
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
        disabled = document.missing.get(("models", index, "api_key"))
        if entry.provider not in implemented:
            disabled = f"provider {entry.provider} is not available in this version"
        elif entry.provider in UNABLE[entry.mode]:
            disabled = f"provider {entry.provider} has no mode {entry.mode}"
        made = build.deployment(entry, numbers[entry.name], file.timeouts, disabled)
        found.append(replace(made, secrets=hidden.entrys_secrets(document, index)))
    return found


def _built_in_mock(deployments: list[Deployment], file: File) -> Deployment:
    number = 1 + sum(d.name == build.BUILT_IN_MOCK.name for d in deployments)
    return replace(build.deployment(build.BUILT_IN_MOCK, number, file.timeouts, None), disabled=None)


def _disabled(document: Document, deployments: list[Deployment], source: str) -> Iterator[Problem]:
    for index, deployment in enumerate(deployments):
        if deployment.disabled is not None:
            message = f"{deployment.name} is disabled: {deployment.disabled}"
            yield Problem(*document.position(("models", index, "api_key")), message, "warning", source)
