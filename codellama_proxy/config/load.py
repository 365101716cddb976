"""proxy.yaml to a `Snapshot`, or to everything that is wrong with it; never to something in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from codellama_proxy.config import build, secret_values
from codellama_proxy.config.digest import fingerprint_of, keyed
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.schema import File
from codellama_proxy.config.settings import DEFAULT_HOST
from codellama_proxy.config.validate import availability, cross_field, unreachable
from codellama_proxy.config.validate.credentials import with_customary
from codellama_proxy.config.validate.finding import Content, Finding
from codellama_proxy.config.validate.messages import invalid_values, problem_at
from codellama_proxy.config.validate.partial import read_content
from codellama_proxy.config.yaml.document import Document, Path, parse
from codellama_proxy.config.yaml.substitution import Lookup, lookup_in
from codellama_proxy.core.masking import Mask
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.providers.registry import load_adapters

MOCK_ADDED = 'no model can be used, so the built-in model "mock" answers; its responses are made up'


class Loaded(NamedTuple):
    snapshot: Snapshot
    warnings: tuple[Problem, ...]


def load(
    text: bytes, environ: Mapping[str, str], *, source: str = "proxy.yaml", implemented: frozenset[str]
) -> Snapshot:
    """The configuration that `text` describes. `implemented` are the providers that this version supports.

    Raises `ConfigError`.
    """
    return examine(text, environ, source=source, implemented=implemented).snapshot


def examine(
    text: bytes, environ: Mapping[str, str], *, source: str = "proxy.yaml", implemented: frozenset[str]
) -> Loaded:
    """Like `load`, with the positions of the warnings. One run reports every problem.

    Raises `ConfigError`, which holds the warnings too.
    """
    document, problems = _parse(text, environ, source)
    return examine_document(text, document, problems, environ.get("PROXY_HOST"), implemented)


def examine_document(
    text: bytes,
    document: Document,
    problems: list[Problem],
    host: str | None,
    implemented: frozenset[str],
) -> Loaded:
    """The rest of `examine`, from the parsed `text` on."""
    content, invalid = _validate(document)
    problems += [*invalid, *_cross_check(document, content, implemented)]
    if content is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(_in_order(problems, document))
    snapshot, mock_added = _build(text, document, content.file, implemented)
    problems += _lint(document, content, snapshot, host or DEFAULT_HOST)
    warnings = (*_in_order(problems, document), *mock_added)
    return Loaded(replace(snapshot, warnings=tuple(problem.message for problem in warnings)), warnings)


def _parse(text: bytes, environ: Mapping[str, str], source: str) -> tuple[Document, list[Problem]]:
    return parsed(text, lookup_in(environ), source)


def parsed(text: bytes, lookup: Lookup, source: str) -> tuple[Document, list[Problem]]:
    """The document with everything substituted. Raises `ConfigError` for what is not YAML."""
    document = with_customary(parse(text, lookup, source=source), lookup)
    problems = [Problem(*place, message, source=source) for place, message in document.problems]
    unset = (Finding(path, why) for path, why in document.missing.items() if why and not _may_be_unset(path))
    return document, problems + _problems(document, unset)


def _may_be_unset(path: Path) -> bool:
    match path:
        case ("models", int(), "api_key") | ("tracking", "promptlayer", "api_key"):
            return True
    return False


def _validate(document: Document) -> tuple[Content | None, list[Problem]]:
    """Every value by itself. The content is what remains without the invalid ones, so that it can be checked too."""
    if not isinstance(document.root, dict):
        return None, _problems(document, [Finding((), "expected a mapping with `models:`")])
    content, error = read_content(document)
    return content, [] if error is None else list(invalid_values(document, error))


def _cross_check(document: Document, content: Content | None, implemented: frozenset[str]) -> list[Problem]:
    """The values with each other, as if every API key were set: an unset one must hide no other problem."""
    if content is None:
        return []
    file, entries = content
    complete = build.as_if_complete(file, entries.by_index.values(), implemented)
    return _problems(
        document,
        cross_field.findings(file, entries),
        availability.findings(document, entries, implemented),
        unreachable.findings(complete, file, entries),
    )


def _build(
    text: bytes, document: Document, file: File, implemented: frozenset[str]
) -> tuple[Snapshot, list[Problem]]:
    """The snapshot; the problem is that the built-in mock had to be added."""
    deployments = build.deployments(file, document, implemented)
    added = []
    if all(one.disabled is not None for one in deployments):
        deployments.append(build.built_in_mock(deployments, file))
        added = _problems(document, [Finding(("models",), MOCK_ADDED, "warning", with_path=False)])
    load_adapters(one for one in deployments if one.disabled is None)
    fingerprint = fingerprint_of(text, document.inputs)
    snapshot = replace(
        build.snapshot(file, deployments, digest=keyed(fingerprint)),
        fingerprint=fingerprint,
        secrets=secret_values.secrets_of(document),
        hidden=secret_values.secret_paths(document, (entry.name for entry in file.models)),
    )
    return snapshot, added


def _lint(document: Document, content: Content, snapshot: Snapshot, host: str) -> list[Problem]:
    """What is valid and probably not meant. `host` is where the server would listen."""
    file, entries = content
    return _problems(
        document,
        unreachable.findings(snapshot, file, entries),
        unreachable.guardrails(snapshot, file, entries),
        cross_field.unauthenticated_access(file, host),
    )


def _problems(document: Document, *findings: Iterable[Finding]) -> list[Problem]:
    return [problem_at(document, finding) for finding in chain.from_iterable(findings)]


def _in_order(problems: Iterable[Problem], document: Document) -> tuple[Problem, ...]:
    """Sorted by position, each once, and without the values of `${...}`."""
    clean = Mask(secret.reveal() for secret in secret_values.secrets_of(document))
    unique = dict.fromkeys(problem._replace(message=clean(problem.message)) for problem in problems)
    return tuple(sorted(unique, key=lambda problem: (problem.line, problem.column)))
