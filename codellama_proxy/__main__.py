"""The command `codellama-proxy`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from codellama_proxy.cli.app import app
from codellama_proxy.cli.run import run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command of `argv` (default: the process's arguments); returns the exit code."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else it searches all installed packages
    gc.disable()  # imports leave little to collect; a server that has started enables it
    try:
        return run(app, "codellama-proxy", sys.argv[1:] if argv is None else argv)
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
