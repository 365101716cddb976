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


def elsewhere(why: Exception) -> NoReturn:
    """Run this script again with the environment's interpreter."""
    if Path(sys.prefix).resolve() == ROOT / ".venv":
        sys.exit(f"keys.py: the environment in .venv is incomplete ({why}): run scripts/install")
    if not PYTHON.exists():
        done = subprocess.run([str(ROOT / "scripts" / "install")], stdout=sys.stderr, check=False)
        if done.returncode or not PYTHON.exists():
            sys.exit("keys.py: scripts/install did not succeed")
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])  # noqa: S606 - our own interpreter


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    try:
        from codellama_proxy.cli.keys import main
    except (ImportError, SyntaxError) as error:  # no dependencies here, or too old a Python
        elsewhere(error)
    else:
        sys.exit(main())
