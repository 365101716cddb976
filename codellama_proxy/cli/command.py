"""What every subcommand shares: its place in the table, the database, and how its answer is printed."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from dotenv import dotenv_values
from pydantic import ValidationError

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.factory import read_session, write_session
from codellama_proxy.store.interfaces import AdminSession
from codellama_proxy.store.location import database_file

DEFAULT_DATABASE = "data/proxy.db"
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells tell it."""


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand: `run` gets the parsed arguments and returns the exit code."""

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


class CommandError(Exception):
    """One sentence for stderr. Exit code 1: it cannot be done; 2: it was asked for wrongly."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def database_path(args: Namespace, environ: Mapping[str, str] = os.environ) -> Path:
    """`--database`, else `PROXY_DATABASE` from the environment or `.env`, else the default. Raises `StoreError`."""
    given = getattr(args, "database", None) or environ.get("PROXY_DATABASE")
    return database_file(given or _dotenv().get("PROXY_DATABASE") or DEFAULT_DATABASE)


def without_passwords(message: str) -> str:
    """A complaint about arguments, which may repeat an address with a password in it."""
    return re.sub(r"(:/+)[^@\s]*@", r"\1****@", message)


class Parser(ArgumentParser):
    """Repeats no password that stands in an argument."""

    def error(self, message: str) -> NoReturn:
        super().error(without_passwords(message))


def _dotenv() -> Mapping[str, str | None]:
    """Raises `CommandError` for a file that cannot be read."""
    try:
        return dotenv_values(".env") if Path(".env").is_file() else {}
    except (OSError, UnicodeError):
        raise CommandError(".env cannot be read") from None


def reading(args: Namespace) -> AbstractContextManager[AdminSession]:
    """A session that only reads. It never creates the database."""
    return read_session(database_path(args))


def change(args: Namespace, *, create: bool = False) -> AbstractContextManager[AdminSession]:
    """A session in one transaction, rolled back on any exception."""
    return write_session(database_path(args), create=create)


# --- how a command ends --------------------------------------------------------------------------------------


def ending(program: str, parse: Callable[[], Namespace]) -> int:
    """Parse and run a command; its exit code. What goes wrong is one sentence on stderr, never a traceback.

    0: done; 1: it cannot be done; 2: it was asked for wrongly; 130: it was interrupted.
    """
    _open_standard_streams()
    name = program
    try:
        try:
            args = parse()
            name = f"{program} {args.command}"
            code = int(args.run(args))
        finally:  # also after --help, which exits
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return 0
    except KeyboardInterrupt:
        _discard_stdout()
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError):
            _discard_stdout()
        sentences, code = _said(error)
        for sentence in sentences:
            note(f"{name}: {sentence}")
    return code


def _said(error: Exception) -> tuple[list[str], int]:
    """The sentences for an error, and the exit code."""
    match error:
        case CommandError():
            return [str(error)], error.code
        case ProxyError():
            return [error.message], 1 if error.status == 404 else 2
        case StoreError():
            return [str(error)], 1
        case ValidationError():
            return [_about_a_setting(one["loc"], one["msg"]) for one in error.errors()], 1
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return [f"{where}{error.strerror or error}"], 1
        case UnicodeError():
            return ["there is text that is not UTF-8"], 1
    if os.environ.get("PROXY_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    # Its words may say anything, a secret too.
    return [f"a mistake of the program ({type(error).__name__}); PROXY_LOG_LEVEL=debug tells more"], 1


def _about_a_setting(place: tuple[int | str, ...], message: str) -> str:
    variable = "PROXY_" + "_".join(str(part) for part in place).upper()
    return f"{variable}: {message.removeprefix('Value error, ')}"


def _open_standard_streams() -> None:
    """Where a caller has closed one: else the next file opened would get its number, and be written to."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """What is left in its buffer must not fail again at the exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- what it says --------------------------------------------------------------------------------------------


def answer(args: Namespace, data: Any, text: str) -> int:
    """Print the answer on stdout, as JSON if that was asked for."""
    say(json.dumps(data, ensure_ascii=False) if args.json else text)
    return 0


def say(text: str) -> None:
    """Print a part of the answer on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell the person something that is not the answer."""
    with suppress(OSError):  # nobody reads it
        sys.stderr.write(text + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns under upper-case heads; `None` is a dash."""
    cells = [[head.upper() for head in columns]]
    cells += [["-" if value is None else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells)
    return "\n".join("  ".join(row).rstrip() for row in padded)
