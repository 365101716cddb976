"""The structure: imports point down, nothing goes round in a circle, and each outside thing has its one door."""

import ast
import functools
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "codellama_proxy"

# From the bottom up. A module may import from its own line and from those before it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("openai_format", "limits", "native"),
    ("failures", "policy", "pricing", "routing", "tokens"),
    ("providers", "inbound"),
    ("config", "store"),
    ("request",),
    ("auth", "tracking", "upstream"),
    ("cache",),
    ("gateway",),
    ("diagnostics",),
    ("web",),
    ("server", "cli", "__main__"),
)

# What only these may import.
DOORS: Mapping[str, tuple[str, ...]] = {
    "click": ("cli",),
    "starlette": ("web",),
    "uvicorn": ("server",),
    "aiohappyeyeballs": ("upstream.dial",),
    "httptools": ("upstream.connection", "server.request_reader"),
    "aiosqlite": ("store.sqlite",),
    "sqlite3": ("store.sqlite", "cache.file", "cache.storage"),
    "psycopg": ("store.postgres.session", "store.postgres.round_trip"),
    "yaml": ("config.yaml", "config.importers"),
    "genai_prices": ("pricing.catalogue",),
    "tiktoken": ("tokens.tokenizers",),
    "jinja2": ("web.ui",),
    "markupsafe": ("web.ui",),
    "prometheus_client": (
        "tracking.metrics",
        "tracking.unlocked_metrics",
        "web.metrics",
        "tracking.merged_metrics",
    ),
}

# Who may import what of ours; others go through `store.factory` and `store.interfaces`.
OWN_DOORS: Mapping[str, tuple[str, ...]] = {
    "store.sql": ("store.sql", "store.factory", "store.sqlite", "store.postgres", "cache.file"),
    "store.sqlite": ("store.sqlite", "store.factory", "cache.file"),
    "store.postgres": ("store.postgres", "store.factory"),
}

# What would make a function's answer depend on more than its arguments.
IMPURE = {"asyncio", "time", "random", "os", "logging", "socket", "threading", "sqlite3"}
PURE = (
    "openai_format",
    "limits",
    "native",
    "failures",
    "policy",
    "pricing",
    "routing",
    "tokens",
    "providers",
    "inbound",
)
NOT_QUITE_PURE = {
    "tokens.tokenizers": {"asyncio", "os"},  # reads its vocabularies; counting itself is pure
    "tokens.counter": {"asyncio", "os", "logging"},  # loads vocabularies off the event loop
}


@functools.cache
def imports(path: Path) -> tuple[tuple[str, str], ...]:
    """Every import as `("ours" | "theirs", module)`."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, str]]:
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


def test_imports_point_down() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for whose, imported in imports(path)
        if whose == "ours" and imported and layer(imported) > layer(module)
    ]
    assert wrong == []
    assert [module for module in MODULES if layer(module) < 0] == [], "they belong to no layer: give them one"


def test_modules_have_no_import_cycles() -> None:
    graph = {
        module: {name for whose, name in imports(path) if whose == "ours" and name in MODULES}
        for module, path in MODULES.items()
    }
    assert list(TopologicalSorter(graph).static_order())


def test_packages_have_no_import_cycles() -> None:
    folders: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        own = module.partition(".")[0]
        others = {name.partition(".")[0] for whose, name in imports(path) if whose == "ours" and name}
        folders.setdefault(own, set()).update(others - {own})
    assert list(TopologicalSorter(folders).static_order())


def test_each_external_library_is_imported_only_where_allowed() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for whose, imported in imports(path)
        if whose == "theirs" and imported in DOORS and not within(module, DOORS[imported])
    ]
    assert wrong == []


def test_only_the_factory_imports_the_packages_of_database_systems() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for whose, imported in imports(path)
        for place, allowed in OWN_DOORS.items()
        if whose == "ours" and within(imported, (place,)) and not within(module, allowed)
    ]
    assert wrong == []


def test_policy_and_dialects_import_no_io() -> None:
    wrong = {
        module: impure
        for module, path in MODULES.items()
        if within(module, PURE)
        and (impure := ({name for whose, name in imports(path) if whose == "theirs"} & IMPURE))
        - NOT_QUITE_PURE.get(module, set())
    }
    assert wrong == {}


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)
