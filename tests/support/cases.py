"""Many small cases in one test: collecting and reporting each of them would cost more than running it."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


def each(
    names: str | Sequence[str], cases: Iterable[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`pytest.mark.parametrize` as a loop inside one test. Every case runs; a failure names the cases that failed.

    For cases of about a millisecond that share their fixtures.
    """
    single = isinstance(names, str)
    listed = [names] if isinstance(names, str) else list(names)
    values = [dict(zip(listed, (case,) if single else case, strict=True)) for case in cases]
    assert values, "a test without a case tests nothing"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def all_cases(**fixtures: Any) -> None:
            failures = [error for value in values if (error := _failure(test, fixtures, value))]
            if failures:
                for other in failures[1:20]:
                    for note in other.__notes__:
                        failures[0].add_note(note)
                raise failures[0]

        signature = inspect.signature(test)
        kept = [one for name, one in signature.parameters.items() if name not in listed]
        all_cases.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return all_cases

    return decorate


def _failure(
    test: Callable[..., None], fixtures: dict[str, Any], value: dict[str, Any]
) -> BaseException | None:
    """What a case raised, with a note that names it."""
    try:
        test(**fixtures, **value)
    except (Exception, pytest.fail.Exception) as error:
        shown = ", ".join(f"{name}={_short.repr(one)}" for name, one in value.items())
        error.add_note(f"failed case: {shown}")
        return error
    return None
