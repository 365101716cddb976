"""Whether the package runs from a checkout, whose scripts need no activated environment."""

from __future__ import annotations

from pathlib import Path

from codellama_proxy import __file__ as package

CHECKOUT = Path(package).parent.parent
"""The folder above the package."""
INSTALLED = "codellama-proxy keys"


def keys_command(checkout: Path = CHECKOUT) -> str:
    """The command that administers keys, as it is entered in the folder of a checkout."""
    return "scripts/keys.py" if (checkout / "scripts" / "keys.py").is_file() else INSTALLED
