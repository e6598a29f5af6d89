"""Every module says what it offers, and offers just that."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil

from tests.rules import for_every

import gloveport

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(gloveport.__path__, "gloveport.")
    if not info.name.endswith("__main__") and ".skills" not in info.name
)


@for_every(MODULES)
def test_all_names_exist_and_are_sorted_and_public(name: str) -> None:
    module = importlib.import_module(name)
    names = module.__all__
    assert len(set(names)) == len(names)
    assert not [n for n in names if not hasattr(module, n)]
    assert not [n for n in names if n.startswith("_") and n != "__version__"]


@for_every(MODULES)
def test_public_functions_and_classes_are_in_all(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(module) or "")
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined <= set(module.__all__), f"add to __all__ or make private: {sorted(defined - set(module.__all__))}"
