"""Imports run one way: ledger ← projections ← api. The tree is read, not imported, so a wrong arrow fails at once."""

import ast
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ledger", "projections", "api")
MAY_IMPORT = {"ledger": {"ledger"}, "projections": {"ledger", "projections"}, "api": set(PACKAGES)}
MERKLE_MAY_IMPORT = {"__future__", "collections", "dataclasses", "hashlib", "typing"}
"""The hashing is to be read and rerun by strangers: one library that hashes, and what is needed to write types."""

RULES_MAY_IMPORT = {"__future__", "collections", "dataclasses", "datetime", "typing", "uuid"} | {
    "ledger.commands",
    "ledger.errors",
    "ledger.events",
    "ledger.ids",
    "ledger.rulebook",
    "ledger.rules",
}
CLOCKS_AND_DICE = {"now", "utcnow", "today", "uuid1", "uuid4", "monotonic", "urandom"}
OUTSIDE_WORLD = {"open", "getenv", "connect", "create_engine", "Popen", "urlopen", "print"}


class Module:
    """One source file: its dotted name and what it imports when it runs (not what it imports for types only)."""

    def __init__(self, root: Path, path: Path) -> None:
        parts = list(path.relative_to(root).with_suffix("").parts)
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.tree = ast.parse(path.read_text("utf-8"), str(path))

    def imports(self, known: Container[str]) -> set[str]:
        """Modules by dotted name; ``from package import module`` counts as that module if it is one of ``known``."""
        found: set[str] = set()
        for node in _at_run_time(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(node)
                inner = (f"{source}.{alias.name}" for alias in node.names)
                found |= {name if name in known else source for name in inner}
        return found - {self.name}

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
        base = package[: len(package) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])

    def calls(self) -> set[str]:
        """The last names of everything called anywhere in the file."""
        return {_called(node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}

    def effects_when_imported(self) -> list[str]:
        """What importing the file would do besides defining names, as far as reading can tell."""
        return [found for statement in self.tree.body for found in _effects(statement)]


def _at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield other
                yield from _at_run_time(other)
            continue
        yield node
        yield from _at_run_time(node)


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _effects(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    if isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test):
        return
    if isinstance(statement, ast.ClassDef):
        for inner in statement.body:
            yield from _effects(inner)
        return
    if isinstance(statement, (ast.For, ast.While, ast.With)):
        yield f"line {statement.lineno}: a {type(statement).__name__.lower()} that runs when imported"
    for node in _outside_functions(statement):
        if isinstance(node, ast.Call) and _called(node) in OUTSIDE_WORLD:
            yield f"line {node.lineno}: calls {_called(node)}"
        if isinstance(node, ast.Attribute) and node.attr == "environ":
            yield f"line {node.lineno}: reads the environment"


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _outside_functions(child)


def modules_of(root: Path) -> dict[str, Module]:
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return {module.name: module for module in (Module(root, path) for path in files)}


def cycle_in(arrows: Mapping[str, set[str]]) -> list[str] | None:
    """The first circle of imports, as names in order; None if there is none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return None
        found = (visit(target, [*path, name]) for target in sorted(arrows.get(name, ())))
        circle = next((circle for circle in found if circle), None)
        finished.add(name)
        return circle

    return next((circle for name in sorted(arrows) if (circle := visit(name, []))), None)


# --- what must hold of a tree ----------------------------------------------------------------------------------------


def wrong_arrows(modules: Mapping[str, Module]) -> list[str]:
    """Imports of one of our packages by one that may not know it."""
    return [
        f"{module.name} imports {target}"
        for module in modules.values()
        for target in sorted(module.imports(modules))
        if _top(target) in PACKAGES and _top(target) not in MAY_IMPORT[_top(module.name)]
    ]


def circle(modules: Mapping[str, Module]) -> list[str] | None:
    return cycle_in({name: module.imports(modules) & set(modules) for name, module in modules.items()})


def impure_rules(modules: Mapping[str, Module]) -> list[str]:
    """Rule modules that import more than rules may know, or ask a clock or dice."""
    found = []
    for module in modules.values():
        if f"{module.name}.".startswith("ledger.rules."):
            strange = {t for t in module.imports(modules) if not _is_in(t, RULES_MAY_IMPORT)}
            found += [f"{module.name}: {name}" for name in sorted(strange | module.calls() & CLOCKS_AND_DICE)]
    return found


def demo_users(modules: Mapping[str, Module]) -> list[str]:
    """Modules other than the command line that import the demonstration county."""
    return [
        name
        for name, module in modules.items()
        if not _is_in(name, {"api.cli", "api.demo"})
        and any(_is_in(target, {"api.demo"}) for target in module.imports(modules))
    ]


def effects(modules: Mapping[str, Module]) -> list[str]:
    return [f"{name}: {found}" for name, m in modules.items() for found in m.effects_when_imported()]


def _top(name: str) -> str:
    return name.split(".")[0]


def _is_in(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> dict[str, Module]:
    modules = modules_of(ROOT)
    assert {"ledger.events", "ledger.rules.orders", "ledger.merkle"} <= modules.keys()
    return modules


def test_imports_run_one_way(ours: dict[str, Module]) -> None:
    assert wrong_arrows(ours) == []


def test_imports_form_no_circle(ours: dict[str, Module]) -> None:
    assert circle(ours) is None


def test_hashing_imports_nothing_but_hashlib(ours: dict[str, Module]) -> None:
    imported = ours["ledger.merkle"].imports(ours)
    assert "hashlib" in imported
    assert {_top(name) for name in imported} <= MERKLE_MAY_IMPORT


def test_rules_read_no_clock_no_database_and_no_setting(ours: dict[str, Module]) -> None:
    assert impure_rules(ours) == []


def test_only_the_command_line_knows_the_demonstration_county(ours: dict[str, Module]) -> None:
    assert demo_users(ours) == []


def test_importing_a_module_does_nothing_else(ours: dict[str, Module]) -> None:
    assert effects(ours) == []


def test_no_file_is_called_utils() -> None:
    tracked = [path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")]
    assert len(tracked) > 20
    assert [path for path in tracked if path.stem in ("utils", "util")] == []


def test_facts_and_rules_load_without_a_database_library(ours: dict[str, Module]) -> None:
    """Whatever the rules reach, over any number of steps, is ours or in the standard library, or checks values."""
    reached, open_ = set[str](), ["ledger.rules"]
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ += ours[name].imports(ours) if name in ours else []
    strangers = {_top(name) for name in reached} - set(sys.stdlib_module_names)
    assert strangers == {"ledger", "pydantic"}


# --- a planted fault of each kind is found ---------------------------------------------------------------------------

PLANTED = {
    "ledger/__init__.py": "",
    "ledger/early.py": "from projections import figures\n",
    "ledger/first.py": "from ledger import second\n",
    "ledger/second.py": "def later():\n    from .first import thing\n",
    "ledger/typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import api.app\n",
    "ledger/rules/__init__.py": "",
    "ledger/rules/clock.py": "from datetime import datetime\nimport time\nNOW = datetime.now()\n",
    "projections/__init__.py": "",
    "projections/figures.py": "import os\nHOME = os.environ['HOME']\n",
    "api/__init__.py": "",
    "api/app.py": "from api.demo import START, county\nwith open('x') as f:\n    pass\n",
    "api/cli/__init__.py": "from api.cli import demo\n",
    "api/cli/demo.py": "from api.demo import county\n",
    "api/demo/__init__.py": "",
    "api/demo/county.py": "from api import demo\nTABLE = [lambda: open('later')]\n",
}


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, Module]:
    for name, source in PLANTED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return modules_of(tmp_path)


def test_planted_faults_are_found_and_nothing_else(planted: dict[str, Module]) -> None:
    assert wrong_arrows(planted) == ["ledger.early imports projections.figures"]
    assert circle(planted) == ["ledger.first", "ledger.second", "ledger.first"]
    assert impure_rules(planted) == ["ledger.rules.clock: now", "ledger.rules.clock: time"]
    assert demo_users(planted) == ["api.app"]
    assert effects(planted) == [
        "projections.figures: line 2: reads the environment",
        "api.app: line 2: a with that runs when imported",
        "api.app: line 2: calls open",
    ]
