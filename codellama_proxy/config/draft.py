"""Checks a draft of proxy.yaml that somebody sent, without putting any secret into it.

A value that comes from `${...}` keeps its real value only where the file in force has the same text at the same place;
it is never shown there. Everywhere else a variable that is set becomes its name in parentheses, and no file is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from codellama_proxy.config.diff import difference
from codellama_proxy.config.live import Source
from codellama_proxy.config.load import Loaded, examine_document, parsed
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.yaml.document import Document, Path
from codellama_proxy.config.yaml.substitution import Lookup, UnsetError, lookup_in, reason
from codellama_proxy.core.masking import Clean, mask_of
from codellama_proxy.core.snapshot import Snapshot

SOURCE = "draft"


class Checked(NamedTuple):
    """What is known of a draft. All texts are free of secrets."""

    problems: tuple[Problem, ...]
    """Errors and warnings."""
    changes: tuple[str, ...] = ()
    """Compared with the configuration in force."""
    snapshot: Snapshot | None = None
    """`None` if there are errors."""
    unchecked: tuple[str, ...] = ()
    """Places whose variables have no value here, so that they were left out."""


def placeholders(environ: Mapping[str, str]) -> Lookup:
    """Gives `(NAME)` for each variable that is set, and for each file, instead of its value."""

    def lookup(name: str) -> str:
        if not name.startswith("file:") and not environ.get(name):
            raise UnsetError(f"{name} is not set")
        return f"({name})"

    return lookup


def check(draft: bytes, served: bytes, in_force: Snapshot, source: Source) -> Checked:
    """Check a draft against the text and the snapshot in force. Never raises `ConfigError`."""
    try:
        environ = source.environ()
    except (OSError, ValueError) as error:
        why = f"the environment cannot be read: {reason(error)}"
        return Checked((Problem(1, 1, why, source=SOURCE),))
    clean = mask_of(in_force)
    unchecked: tuple[Path, ...] = ()
    try:
        document, problems = parsed(draft, placeholders(environ), SOURCE)
        document, unknown = _with_values_in_force(document, served, environ)
        unchecked = tuple(_new_files(document, in_force))
        _remove(document.root, unchecked)
        try:
            loaded = _examined(draft, document, problems, source, environ)
        except ConfigError as error:
            more = tuple(_with_error(error, document, unknown))
            if not more:
                raise
            unchecked += more
            _remove(document.root, more)
            loaded = _examined(draft, document, problems, source, environ)
    except ConfigError as error:
        return Checked(_cleaned(error.problems, clean), unchecked=tuple(map(_dotted, unchecked)))
    new = loaded.snapshot
    snapshot = replace(new, hidden=new.hidden | in_force.hidden, secrets=new.secrets | in_force.secrets)
    changes = tuple([clean(line) for line in difference(in_force, snapshot)])
    return Checked(_cleaned(loaded.warnings, clean), changes, snapshot, tuple(map(_dotted, unchecked)))


def _examined(
    draft: bytes, document: Document, problems: list[Problem], source: Source, environ: Mapping[str, str]
) -> Loaded:
    return examine_document(draft, document, list(problems), environ.get("PROXY_HOST"), source.implemented)


def _cleaned(problems: tuple[Problem, ...], clean: Clean) -> tuple[Problem, ...]:
    return tuple([problem._replace(message=clean(problem.message)) for problem in problems])


# --- values in force -------------------------------------------------------------------------------------------


def _with_values_in_force(
    draft: Document, served: bytes, environ: Mapping[str, str]
) -> tuple[Document, frozenset[Path]]:
    """The draft with the real values where the file in force has the same reference at the same place; and the
    other places with references."""
    try:
        named, _ = parsed(served, placeholders(environ), SOURCE)
        real, _ = parsed(served, lookup_in(environ), SOURCE)
    except ConfigError:  # the file in force was good; a variable has changed since
        return draft, frozenset(draft.substituted)
    of_served = {_stable(path, named.root): path for path in real.substituted}
    substituted, inputs = dict(draft.substituted), list(draft.inputs)
    unknown = set(draft.substituted)
    for path in draft.substituted:
        place = of_served.get(_stable(path, draft.root))
        if place is None or _at(draft.root, path) != _at(named.root, place):
            continue
        _at(draft.root, path[:-1])[path[-1]] = _at(real.root, place)
        unknown.discard(path)
        substituted[path] = real.substituted[place]
        inputs.extend(("", value) for value in real.substituted[place])
    return draft._replace(substituted=substituted, inputs=tuple(inputs)), frozenset(unknown)


def _stable(path: Path, root: Any) -> Path:
    """A path that stays the same when entries of `models:` move: by name and number, not by index."""
    match path:
        case ("models", int(index), *rest):
            names = [entry.get("name") if isinstance(entry, dict) else None for entry in root["models"]]
            return ("models", f"{names[index]}#{names[: index + 1].count(names[index])}", *rest)
    return path


def _at(root: Any, path: Path) -> Any:
    for part in path:
        root = root[part]
    return root


# --- values that are not known ---------------------------------------------------------------------------------


def _with_error(error: ConfigError, document: Document, unknown: frozenset[Path]) -> Iterator[Path]:
    """The places that hold the name of a variable instead of its value, and are wrong perhaps for that."""
    wrong = {(problem.line, problem.column) for problem in error.errors}
    for path in unknown:
        if {document.position(path), document.position(path[:-1])} & wrong:
            yield path


def _new_files(document: Document, in_force: Snapshot) -> Iterator[Path]:
    """Files that loading would read, and that the configuration in force does not."""
    egress = document.root.get("egress") if isinstance(document.root, dict) else None
    known = in_force.egress.ca_bundle.path if in_force.egress.ca_bundle is not None else None
    if isinstance(egress, dict) and egress.get("ca_bundle") not in (None, known):
        yield "egress", "ca_bundle"


def _remove(root: Any, paths: Iterable[Path]) -> None:
    for path in paths:
        owner = _at(root, path[:-1])
        if isinstance(owner, dict):
            owner.pop(path[-1], None)


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
