"""`python -m tests.clients.install`: installs what the suite runs and what is missing below `.clients/`.

Packages that cannot be installed are named, and their tests skip with the reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.clients.agents import AGENTS
from tests.clients.libraries import LIBRARIES
from tests.clients.packages import CACHE, NODE, Package


def main() -> None:
    CACHE.mkdir(exist_ok=True)
    known = [NODE, *(one.package for one in AGENTS.values()), *(one.package for one in LIBRARIES.values())]
    if shutil.which("npm") is None:
        print("npm is not installed: tests of npm packages will be skipped.", file=sys.stderr)
        known = [one for one in known if not isinstance(one, Package)]
    for package in dict.fromkeys(known):
        if package.path.exists():
            continue
        print(f"Installing {package.name} {package.version} ...", file=sys.stderr, flush=True)
        shutil.rmtree(package.folder, ignore_errors=True)
        try:
            package.install()
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(package.folder, ignore_errors=True)
            print(f"  failed: {error}; see {package.log}", file=sys.stderr)


if __name__ == "__main__":
    main()
