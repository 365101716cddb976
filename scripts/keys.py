#!/usr/bin/env python3
"""Key administration: runs in the environment the proxy is installed in, making it first if need be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
INSTALL = ROOT / "scripts" / "install"
INSTALLED = "KEYS_PY_INSTALLED"
"""Set in the environment once scripts/install has been run, which is enough."""


def elsewhere(why: Exception) -> NoReturn:
    """Run this script again with the environment's interpreter; what is missing there is installed first."""
    if INSTALLED in os.environ:
        sys.exit(
            f"keys.py: the environment in .venv is incomplete ({why}): remove it and run scripts/install"
        )
    if INSTALL.exists() and subprocess.run([str(INSTALL)], stdout=sys.stderr, check=False).returncode:
        sys.exit("keys.py: scripts/install did not succeed")
    if not PYTHON.exists():
        sys.exit("keys.py: there is no environment in .venv: run scripts/install")
    os.environ[INSTALLED] = "1"
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])  # noqa: S606 - our own interpreter


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    try:
        from codellama_proxy.cli.keys import main
    except (ImportError, SyntaxError) as error:  # no dependencies here, or too old a Python
        elsewhere(error)
    else:
        sys.exit(main())
