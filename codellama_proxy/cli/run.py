"""Runs a command. Whatever fails is one sentence on stderr, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

import click
from click.exceptions import Exit, NoArgsIsHelpError
from click.shell_completion import shell_complete

from codellama_proxy.cli.options import RUNNING
from codellama_proxy.cli.output import fail, note
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreError

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells report it."""


class CommandError(Exception):
    """One sentence for stderr. Exit code 1: it cannot be done; 2: usage error."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def run(command: click.Command, program: str, arguments: Sequence[str]) -> int:
    """The exit code. 0: done; 1: it cannot be done; 2: usage error; 130: interrupted."""
    _open_standard_streams()
    variable = f"_{program.replace('-', '_').replace('.', '_').upper()}_COMPLETE"
    if instruction := os.environ.get(variable):
        return shell_complete(command, {}, program, variable, instruction)
    meta: dict[str, click.Context] = {}
    try:
        try:
            return _invoke(command, program, arguments, meta)
        finally:  # also after --help
            sys.stdout.flush()
    except Exit as left:
        return left.exit_code
    except BrokenPipeError:
        _discard_stdout()
        return 0
    except KeyboardInterrupt:
        _discard_stdout()
        return INTERRUPTED
    except NoArgsIsHelpError as error:
        note(error.format_message())
        return error.exit_code
    except click.UsageError as error:
        name = program if error.ctx is None else error.ctx.command_path
        fail(name, " ".join(error.format_message().split()))
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError):
            _discard_stdout()
        context = meta.get(RUNNING)
        sentences, code = _described(error, context)
        for sentence in sentences:
            fail(program if context is None else context.command_path, sentence)
        return code


def _invoke(
    command: click.Command, program: str, arguments: Sequence[str], meta: dict[str, click.Context]
) -> int:
    with command.make_context(program, list(arguments)) as context:
        try:
            return int(command.invoke(context) or 0)
        finally:
            meta.update(context.meta)


def _described(error: Exception, context: click.Context | None) -> tuple[list[str], int]:
    """The sentences for an error, and the exit code."""
    from pydantic import ValidationError  # noqa: PLC0415 - most commands need it for an error only

    match error:
        case CommandError():
            return [str(error)], error.code
        case ProxyError():
            return [error.message], 1 if error.status == 404 else 2
        case StoreError():
            return [str(error)], 1
        case ValidationError():
            return [_about_a_setting(one["loc"], one["msg"], context) for one in error.errors()], 1
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return [f"{where}{error.strerror or error}"], 1
        case UnicodeError():
            return ["some text is not valid UTF-8"], 1
    if os.environ.get("PROXY_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    # The message of an unknown exception may contain a secret.
    return [f"internal error ({type(error).__name__}); set PROXY_LOG_LEVEL=debug for details"], 1


def _about_a_setting(place: tuple[int | str, ...], message: str, context: click.Context | None) -> str:
    name = "_".join(str(part) for part in place)
    variable = f"PROXY_{name.upper()}"
    parameters = [] if context is None else context.command.params
    option = next((max(one.opts, key=len) for one in parameters if one.name == name), None)
    where = variable if option is None else f"{option} ({variable})"
    return f"{where}: {message.removeprefix('Value error, ')}"


def _open_standard_streams() -> None:
    """Opens those that the caller closed; else the next file opened would get their number, and their output."""
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
    """Drops what is left in the buffer of stdout: it must not fail again at the exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
