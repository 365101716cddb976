#!/usr/bin/env python3
"""Key administration: finds the environment the proxy is installed in, making it first if need be, and runs there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"


def elsewhere():
    """Run this script again with the environment's interpreter."""
    if Path(sys.prefix) == ROOT / ".venv":
        sys.exit("keys.py: the environment in .venv is incomplete: remove it and run scripts/install")
    if not PYTHON.exists():
        done = subprocess.run([str(ROOT / "scripts" / "install")], stdout=sys.stderr, check=False)
        if done.returncode or not PYTHON.exists():
            sys.exit("keys.py: scripts/install did not succeed")
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    try:
        from codellama_proxy.cli.keys import main
    except (ImportError, SyntaxError):  # no dependencies here, or too old a Python
        elsewhere()
    else:
        sys.exit(main())
