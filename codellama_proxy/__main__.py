"""The command `codellama-proxy`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from codellama_proxy.cli.app import app
from codellama_proxy.cli.run import run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command of `argv` (default: the process's arguments); returns the exit code."""
    return run(app, "codellama-proxy", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
