"""What commands print: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click


def answer(data: Any, text: str, as_json: bool) -> int:
    """Prints the result as JSON or as text; returns exit code 0."""
    say(json.dumps(data, ensure_ascii=False) if as_json else text)
    return 0


def say(text: str) -> None:
    """Prints a part of the result on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Prints a message on stderr, control characters escaped; it is lost if stderr cannot be written."""
    _write_error(escaped(without_passwords(text)))


def fail(name: str, sentence: str) -> None:
    """Prints an error message of the command `name` on stderr, control characters escaped."""
    _write_error(f"{styled(f'{name}:', sys.stderr, 'red')} {escaped(without_passwords(sentence))}")


def suggest_init(config: Path) -> None:
    """Tells how to get a configuration file, if there is none."""
    if not config.exists():
        note("There is no such file: codellama-proxy init writes a starter proxy.yaml.")


def without_passwords(message: str) -> str:
    """A message that may repeat an address from the arguments, without the password in it."""
    return re.sub(r"(:/+)[^@\s]*@", r"\1****@", message)


def escaped(text: str) -> str:
    """The text with `\\x1b` instead of a control character, except for line breaks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def _write_error(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(text + "\n")


def styled(text: str, stream: TextIO, colour: str) -> str:
    """Colours the text if the stream is a terminal and `NO_COLOR` is not set."""
    return click.style(text, fg=colour) if stream.isatty() and not os.environ.get("NO_COLOR") else text


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 answer`, `12 answers`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """The text without terminal control sequences: callers may have chosen some of these words."""
    return "".join(char if char.isprintable() else "?" for char in text)
