"""The structure: imports point down, nothing goes round in a circle, and each outside thing has its one door."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "codellama_proxy"

# From the bottom up. A module may import from its own layer and from those before it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "errors"),
    (  # pure policy: values in, values out
        "admission",
        "asking",
        "budgets",
        "caching",
        "catalogue",
        "charging",
        "chat",
        "completion",
        "cooling",
        "endpoints",
        "extras",
        "failures",
        "fields",
        "forms",
        "guardrail",
        "limits",
        "media",
        "masking",
        "money",
        "parsing",
        "pixels",
        "pricing",
        "privileged",
        "repairs",
        "routing",
        "sse",
        "template",
        "tokens",
        "trace",
        "transcript",
        "usage",
        "vectors",
        "windows",
        "wording",
    ),
    ("providers", "clock", "config", "mountinfo"),
    ("cooldowns", "counting", "exchange", "pools", "store", "tracking", "upstream", "watch", "wire"),
    (
        "accounts",
        "arrivals",
        "delivery",
        "flight",
        "gateway",
        "gptcache",
        "places",
        "recall",
        "semantic",
        "similar",
        "walk",
    ),
    ("explain", "online", "simulate", "welcome"),
    ("web",),
    ("server", "cli", "__main__"),
)

# What only these may import.
DOORS: Mapping[str, tuple[str, ...]] = {
    "starlette": ("web",),
    "uvicorn": ("server", "web.protocol"),
    "aiohttp": ("wire",),
    "httpx2": (
        "wire",
        "upstream",
        "exchange",
        "pools",
        "tracking.delivery",
        "simulate",
        "gptcache",
        "semantic",
    ),
    "aiosqlite": ("store.reader",),
    "yaml": ("config.document", "config.litellm_written"),
    "genai_prices": ("catalogue",),
    "tiktoken": ("tokens",),
    "prometheus_client": ("tracking.metrics", "web.metrics"),
}

# What would make a function's answer depend on more than its arguments.
IMPURE = {"asyncio", "time", "random", "os", "logging", "socket", "threading", "sqlite3"}
NOT_QUITE_PURE = {"tokens": {"asyncio", "os"}}  # reads its vocabularies; counting itself is pure


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every import as `("ours" | "theirs", module)`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (("theirs", alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            top, _, rest = node.module.partition(".")
            if top != "codellama_proxy":
                yield "theirs", top
                continue
            for alias in node.names:
                inner = f"{rest}.{alias.name}".strip(".")
                place = PACKAGE / inner.replace(".", "/")
                yield "ours", inner if place.with_suffix(".py").exists() or place.is_dir() else rest


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = path
    return found


MODULES = modules()


def layer(module: str) -> int:
    top = module.partition(".")[0]
    return next((rank for rank, names in enumerate(LAYERS) if top in names), -1)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    assert layer(module) >= 0, f"{module} belongs to no layer: give it one"
    for whose, imported in imports(MODULES[module]):
        if whose == "ours" and imported:
            assert layer(imported) <= layer(module), f"{module} imports {imported}, which is above it"


def test_nothing_goes_round_in_a_circle() -> None:
    graph = {
        module: {name for whose, name in imports(path) if whose == "ours" and name in MODULES}
        for module, path in MODULES.items()
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_each_outside_thing_has_its_door(module: str) -> None:
    for whose, imported in imports(MODULES[module]):
        allowed = DOORS.get(imported) if whose == "theirs" else None
        if allowed is not None:
            assert any(module == name or module.startswith(name + ".") for name in allowed), imported


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) <= 1 or m.startswith("providers")])
def test_policy_and_dialects_are_pure(module: str) -> None:
    theirs = {name for whose, name in imports(MODULES[module]) if whose == "theirs"}
    assert theirs & IMPURE <= NOT_QUITE_PURE.get(module, set())
