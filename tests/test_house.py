"""The house's rules, read from the sources: who may import whom, names, sizes, the public face."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import headstart

SOURCES = Path(headstart.__file__).parent
REPOSITORY = Path(__file__).parent.parent

# Whoever is in a row imports from lower rows, or from its own row where that is not row 2.
ROWS = {
    **dict.fromkeys(("errors", "files"), 0),
    **dict.fromkeys(("recipe", "budget", "task", "interrupts", "stopwatch", "quiet"), 1),
    **dict.fromkeys(("data", "models", "runtimes", "engines", "evaluation"), 2),
    **dict.fromkeys(("bundle", "small", "parameters", "runs"), 3),
    **dict.fromkeys(("album", "earlier", "features"), 4),
    **dict.fromkeys(("training", "export", "explain", "predictor", "answers", "measuring"), 5),
    "suggestions": 6,
    **dict.fromkeys(("classifier", "keeping", "report", "exports", "tracking"), 6),
    **dict.fromkeys(("cli", "server", "testing"), 7),
    **dict.fromkeys(("", "__main__"), 8),  # the face, and python -m headstart
}

# Part → parts that it must not import although their row would allow it.
FORBIDDEN = {
    "predictor": {"training", "classifier"},
    "server": {"training", "classifier", "cli", "testing"},
}

# Package → the modules, or packages with a trailing dot, that may import it.
KERAS_HOMES = (
    *("models.", "runtimes.", "features.extract", "training.", "bundle", "export.", "testing."),
    *("tracking.", "quiet"),
)
HOMES = {
    "PIL": ("data.",),
    "pillow_heif": ("data.heic",),
    "simplejpeg": ("data.damage",),
    "tensorflow": KERAS_HOMES,
    "keras": KERAS_HOMES,
    "onnx": (
        "export.",
        "runtimes.onnx_convert",
        "runtimes.onnx_cuts",
        "runtimes.onnx_runtime",
        "runtimes.onnx_maps",
        "models.efficientnet_lite.onnx_network",
    ),
    "onnxruntime": ("runtimes.onnx_runtime", "runtimes.onnx_checks"),
    "openvino": ("runtimes.openvino_runtime", "export."),
    "ai_edge_litert": ("runtimes.litert_runtime", "export."),
    "tf2onnx": ("runtimes.onnx_convert", "export."),
    "optuna": ("training.search",),
    "ray": ("engines.ray_engine",),
    "fsspec": ("data.addresses",),
    "tensorboard": ("tracking.tensorboard_tracker",),
    "mlflow": ("tracking.mlflow_tracker",),
    "scipy": ("training.",),
    "sklearn": ("parameters", "cli.demo", "evaluation.selection"),
    "jinja2": ("evaluation.pages.",),
    "matplotlib": ("evaluation.pages.",),
    "fastapi": ("server.",),
    "starlette": ("server.",),
    "uvicorn": ("server.",),
    "prometheus_client": ("server.",),
    "typer": ("cli.",),
    "rich": ("cli.",),
    "pickle": ("models.efficientnet_lite.weights",),
    "requests": ("models.downloads.",),
    "filelock": ("models.downloads.",),
    "tarfile": ("models.downloads.",),
    "sqlite3": ("features.connection",),
    "torch": (),
    "marshal": (),
    "shelve": (),
}

# Slow to import, or not always installed: only inside functions.
LAZY = {
    *("tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "scipy", "sklearn"),
    *(
        "jinja2",
        "matplotlib",
        "pillow_heif",
        "simplejpeg",
        "openvino",
        "optuna",
        "ray",
        "fsspec",
        "tensorboard",
        "mlflow",
        "ai_edge_litert",
        "requests",
        "filelock",
    ),
}

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "manager", "misc"}


class Import(NamedTuple):
    """One import of a source file; a target within Headstart starts with ``headstart``."""

    line: int
    target: str
    is_lazy: bool


def list_imports(module: str, source: str, is_package: bool = False) -> Iterator[Import]:
    """All imports, also those inside functions; not those for type checkers."""
    package = ["headstart", *module.split(".")] if module else ["headstart"]
    if module and not is_package:
        package.pop()

    def visit(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        for target in _targets(node, package):
            yield Import(node.lineno, target, is_lazy)  # type: ignore[attr-defined]
        inner = is_lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.orelse if is_typing else ast.iter_child_nodes(node):
            yield from visit(child, inner)

    return visit(ast.parse(source), False)


def _targets(node: ast.AST, package: list[str]) -> list[str]:
    """What a single node imports; relative names are resolved within ``package``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*above, *filter(None, [node.module])])
        return [f"{origin}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(_IMPORTERS):
        return [str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)]
    return []


_IMPORTERS = ("import_module", "__import__")


def find_breaches(module: str, source: str, is_package: bool = False) -> list[str]:
    """The imports of a module (``"models.heads"``) that the rules above forbid, as sentences."""
    part = module.partition(".")[0]
    if part not in ROWS:
        return [f"{module}: {part!r} has no row; give it one in tests/test_house.py"]
    breaches = []
    for line, target, is_lazy in list_imports(module, source, is_package):
        names = target.split(".")
        if names[0] == "headstart":
            breach = _inner_breach(part, names[1:])
        else:
            breach = _outer_breach(module, names[0], is_lazy)
        if breach:
            breaches.append(f"{module}, line {line}: {breach}")
    return breaches


def _inner_breach(part: str, names: list[str]) -> str | None:
    other = names[0] if names else ""
    if other == "__version__":
        return None
    if other not in ROWS:
        other = ""  # a name of the face
    if other == part:
        return None
    if ROWS[other] > ROWS[part]:
        return f"{part!r} (row {ROWS[part]}) imports {other!r} (row {ROWS[other]})"
    if ROWS[other] == ROWS[part] == 2:
        return f"{part!r} and {other!r} are neighbours, which never import each other"
    if other in FORBIDDEN.get(part, ()):
        return f"{part!r} must not import {other!r}"
    return None


def _outer_breach(module: str, package: str, is_lazy: bool) -> str | None:
    homes = HOMES.get(package)
    inside = f"{module}."
    if homes is not None and not any(
        inside.startswith(home) if home.endswith(".") else module == home for home in homes
    ):
        return f"{package} is imported outside of {', '.join(homes) or 'nothing'}"
    if package in LAZY and not is_lazy:
        return f"{package} is imported when the module is, not inside a function"
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(SOURCES.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: module_name(path) or "face")


@each_file
def test_imports_keep_their_direction(path: Path) -> None:
    found = find_breaches(module_name(path), path.read_text(), path.name == "__init__.py")
    assert found == []


@pytest.mark.parametrize(
    ("module", "source", "part_of_the_sentence"),
    [
        ("errors", "import headstart.files.x\nfrom headstart import recipe", "(row 0) imports"),
        ("files", "from headstart.data.scan import Manifest", "'data' (row 2)"),
        ("recipe", "def f():\n    from headstart.bundle import Bundle", "'bundle' (row 3)"),
        ("data.scan", "from headstart.models.heads import attach_head", "neighbours"),
        ("models.heads", "def f():\n    import headstart.runtimes", "neighbours"),
        ("runtimes", "from headstart import evaluation", "neighbours"),
        ("engines.local", "from headstart.data import scan", "neighbours"),
        ("evaluation.metrics", "from ..data.scan import Sample", "neighbours"),
        ("bundle", "from headstart.features.cache import Space", "'features' (row 4)"),
        ("features.extract", "from headstart import predictor", "'predictor' (row 5)"),
        ("training.fit", "from headstart.classifier import load", "'classifier' (row 6)"),
        ("training.fit", "from headstart import load", "'' (row 8)"),
        ("classifier", "import headstart.cli.output", "'cli' (row 7)"),
        ("predictor", "from headstart.training.probe import softmax", "must not import"),
        ("predictor", "def f():\n    from headstart.training import fit", "must not import"),
        ("predictor", "from headstart.classifier import load", "'classifier' (row 6)"),
        ("predictor", "def f():\n    import keras", "keras is imported outside"),
        ("server.app", "from headstart.classifier import load", "must not import"),
        ("server.app", "from headstart.training import fit", "must not import"),
        ("evaluation.html", "from PIL import Image", "PIL is imported outside"),
        ("cli.commands", "import PIL.Image", "PIL is imported outside"),
        ("classifier", "def f():\n    import keras", "keras is imported outside"),
        ("classifier", "import keras", "keras is imported outside"),
        ("features.cache", "def f():\n    import tensorflow as tf", "tensorflow is imported"),
        ("features.table", "importlib.import_module('tensorflow')", "tensorflow is imported"),
        ("models.heads", "import keras", "not inside a function"),
        ("models.heads", "try:\n    from keras import layers\nexcept ImportError: ...", "not insi"),
        ("models.heads", "def f():\n    import onnx", "onnx is imported outside"),
        ("training.fit", "def f():\n    from onnx import helper", "onnx is imported outside"),
        ("predictor", "def f():\n    import onnxruntime", "onnxruntime is imported outside"),
        ("evaluation.metrics", "def f():\n    import scipy.stats", "scipy is imported outside"),
        ("bundle", "import pickle", "pickle is imported outside"),
        ("models.loaders", "def f():\n    import torch", "torch is imported outside of nothing"),
        ("utils", "", "has no row"),
    ],
)
def test_a_broken_source_is_rejected(module: str, source: str, part_of_the_sentence: str) -> None:
    breaches = find_breaches(module, source)
    assert len(breaches) >= 1
    assert part_of_the_sentence in breaches[-1]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("classifier", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import keras"),
        ("files", "from headstart.errors import CacheError"),
        ("models.heads", "from headstart.models.boundary import pool"),
        ("models.heads", "def f():\n    import keras"),
        ("data.decode", "from PIL import Image"),
        ("cli.commands", "from headstart import __version__"),
        ("predictor", "from headstart.data.stream import map_photos"),
    ],
)
def test_a_sound_source_is_accepted(module: str, source: str) -> None:
    assert find_breaches(module, source) == []


# ---- the public face


def test_public_names_are_sorted_and_complete() -> None:
    assert headstart.__all__ == sorted(headstart.__all__)
    assert set(headstart.__all__) == set(headstart._HOMES)
    tree = ast.parse((SOURCES / "__init__.py").read_text())
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == set(headstart.__all__), "what type checkers see differs from __all__"
    assert set(headstart.__all__) <= set(dir(headstart))


@pytest.mark.parametrize("name", headstart.__all__)
def test_public_names_are_documented(name: str) -> None:
    found = getattr(headstart, name)
    assert inspect.getdoc(found)
    assert found is getattr(importlib.import_module(headstart._HOMES[name]), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fit_everything'"):
        _ = headstart.fit_everything


# ---- docstrings, sizes, names


def list_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def find_undocumented(source: str) -> list[str]:
    """Public classes, functions and methods without a docstring, and modules without one.

    A method of a private class, or a function within a function, is not public.
    """
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["module"]

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name[0] == "_":
                continue
            if not ast.get_docstring(node):
                missing.append(node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body)

    visit(tree.body)
    return missing


MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_RETURNS = 350, 60, 6, 6

# What may be larger, with the reason.
LARGER_FILES: dict[str, str] = {}
LARGER_FUNCTIONS: dict[str, str] = {
    "cli.plan.plan": "a parameter is an option of the command",
    "cli.doctor.doctor": "a parameter is an option of the command",
    "cli.explain.explain": "a parameter is an option of the command",
    "cli.export.export": "a parameter is an option of the command",
    "cli.serve.serve": "a parameter is an option of the command",
    "cli.suggest.suggest": "a parameter is an option of the command",
    "cli.commands.features": "a parameter is an option of the command",
    "cli.predict.evaluate": "a parameter is an option of the command",
    "cli.predict.predict": "a parameter is an option of the command",
    "cli.train.train": "a parameter is an option of the command",
    "classifier.__init__": "the settings of a training are given by keyword",
    "classifier.fit": "one call is one training; its settings are given by keyword",
    "training.library.make_dataset": "its settings are given by keyword",
    "training.plan.make_plan": "its settings are given by keyword",
    "models.heads.attach_head": "its settings are given by keyword",
    "training.targets.train_targets": "as training.fit.train",
    "training.fit.train": "one call is one training; its settings are given by keyword",
}


def find_large(source: str) -> dict[str, list[str]]:
    """By function: what is larger than it should be."""
    large: dict[str, list[str]] = {}
    for function in list_functions(ast.parse(source)):
        arguments = function.args
        parameters = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
        parameters -= any(a.arg in ("self", "cls") for a in arguments.args[:1])
        returns = sum(isinstance(node, ast.Return) for node in ast.walk(function))
        lines = (function.end_lineno or 0) - function.lineno + 1
        sizes = {
            "lines": (lines, MOST_FUNCTION_LINES),
            "parameters": (parameters, MOST_PARAMETERS),
            "returns": (returns, MOST_RETURNS),
        }
        found = [f"{size} {name}" for name, (size, most) in sizes.items() if size > most]
        if found:
            large[function.name] = found
    return large


@each_file
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert find_undocumented(path.read_text()) == []


@each_file
def test_files_and_functions_are_small(path: Path) -> None:
    module, source = module_name(path), path.read_text()
    if module not in LARGER_FILES:
        assert len(source.splitlines()) <= MOST_FILE_LINES
    large = find_large(source)
    allowed = {name.rpartition(".")[2] for name in LARGER_FUNCTIONS if name.startswith(module)}
    assert {name: sizes for name, sizes in large.items() if name not in allowed} == {}


def test_exceptions_are_still_needed() -> None:
    sources = {module_name(path): path.read_text() for path in FILES}
    for module in LARGER_FILES:
        assert len(sources[module].splitlines()) > MOST_FILE_LINES
    for name in LARGER_FUNCTIONS:
        module, _, function = name.rpartition(".")
        assert function in find_large(sources[module])


def test_the_counters_see_broken_examples() -> None:
    assert find_undocumented("def f():\n    return 1") == ["module", "f"]
    assert find_undocumented('"""A."""\nclass A:\n    """A."""\n    def f(self): ...') == ["f"]
    assert find_undocumented('"""A."""\nclass _A:\n    def f(self): ...') == []
    assert find_large("def f(a, b, c, d, e, f, *, g): ...") == {"f": ["7 parameters"]}
    assert find_large("def f():\n" + "    x = 1\n" * 60) == {"f": ["61 lines"]}
    assert find_large("def f():\n" + "    if x: return\n" * 7) == {"f": ["7 returns"]}


def test_no_module_has_a_vague_name() -> None:
    names = {part for path in FILES for part in module_name(path).split(".")}
    assert names & VAGUE_NAMES == set()


# ---- version and changelog


def top_version(changelog: str) -> str | None:
    """The newest released version of a changelog."""
    found = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    return next((name for name in found if name.lower() != "unreleased"), None)


def test_version_is_the_changelogs() -> None:
    assert top_version((REPOSITORY / "CHANGELOG.md").read_text()) == headstart.__version__


def test_the_changelog_reader() -> None:
    assert top_version("# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2027\n## [0.1.0]") == "0.2.0"
    assert top_version("## [0.1.0]\n") == "0.1.0"
    assert top_version("nothing") is None
