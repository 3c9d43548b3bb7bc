"""Imports go one way: what a module needs lies below it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import asc

ROOT = Path(asc.__file__).parent
FILES = {
    ".".join(("asc", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
TOP = ("asc.training", "asc.report", "asc.benchmark")  # what is made of the parts


def imported(name: str, tree: ast.AST) -> set[str]:
    """The modules of asc that the statements of `tree`, which is of the module `name`, import, functions included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else str(node.module))
    return {module for module in found if module in FILES} - {name}


GRAPH = {name: imported(name, tree) for name, tree in TREES.items()}


def test_the_graph_is_that_of_the_package():
    """Else the tests below would pass for want of edges."""
    assert len(GRAPH) > 40
    assert {"asc.audio", "asc.loading", "asc.frontend"} <= GRAPH["asc.classifier"]
    assert "asc.nets.pham_cnn" in GRAPH["asc.nets"]
    assert "asc.data.lists" in GRAPH["asc.data.datamodule"]


def test_no_module_imports_itself_by_way_of_others():
    order = list(TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the modules
    assert order.index("asc.errors") < order.index("asc.classifier") < order.index("asc.training.parts")


def test_the_parts_know_nothing_of_what_is_made_of_them():
    for name, modules in GRAPH.items():
        rooms = {room for room in TOP for module in modules if module.startswith(room)}
        if name.startswith("asc.training"):
            allowed = {"asc.training"}
        else:  # the report and the benchmark stand side by side on the training
            allowed = {"asc.training", *(room for room in TOP[1:] if name.startswith(room))}
            allowed = allowed if name.startswith(TOP) else set()
        assert rooms <= allowed, name


def test_no_import_is_for_types_alone():
    """It would hide that two modules need each other."""
    for name, tree in TREES.items():
        if name in ("asc", "asc.data"):  # their faces, which import what needs torch when it is first used
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                assert not imported(name, node), name
