"""The providers that docs/adding-a-provider.md adds: its code, run as it stands and registered as the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from codellama_proxy.providers.openai import profiles as dialects
from codellama_proxy.providers.openai.profiles import OpenAIProfile
from codellama_proxy.providers.registry import Adapter, adapters
from tests.support.dialogues import OPENAI, Dialogue
from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "adding-a-provider.md").read_text("utf-8")
BLOCKS: Mapping[str, str] = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE, re.DOTALL))


def module(name: str, code: str) -> Any:
    """A module made of the page's code; dataclasses look for theirs among the imported ones."""
    made = ModuleType(name)
    sys.modules[name] = made
    exec(compile(code, name, "exec"), made.__dict__)
    return made


def entries(code: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Lines of a table."""
    found: dict[str, Any] = eval(f"{{{code}}}", dict(known))
    return found


ROWS: Mapping[str, OpenAIProfile] = entries(BLOCKS["row"], vars(dialects))
PARLEY = module("codellama_proxy.providers.parley", BLOCKS["native"])
LOADERS = module("page_loaders", "from __future__ import annotations\n" + BLOCKS["loader"])
ADDED: Mapping[str, Adapter] = adapters(ROWS, entries(BLOCKS["entry"], vars(LOADERS)))
SAYING: Mapping[str, Dialogue] = {
    **dict.fromkeys(ROWS, OPENAI),
    "parley": module("page_dialogue", BLOCKS["dialogue"]).DIALOGUE,
}
