"""The shape of the tree, read from its syntax: who may import whom, and what library code never does.

CONTRIBUTING.md gives the reason for each rule. An exception is one line in a table below, with its reason.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A package may import itself and what is named here. Arrows point one way, so there is no cycle to find.
MAY_IMPORT = {
    "grounding": set(),
    "attention": {"grounding"},
    "rewards": {"grounding", "attention", "models"},  # attention rewards judge maps; a judge is asked
    "data_prep": {"grounding", "rewards", "models"},  # curation scores answers; a teacher is asked
    "models": {"grounding", "attention"},  # shared prompts set the attention
    "credit": {"grounding", "attention", "models"},  # its commands load a policy
    "tools": {"grounding", "rewards", "models"},  # executed calls are what rewards read; replies become tokens
    "benchmarks": {
        "tools",
        "grounding",
        "models",
        "attention",
        "data_prep",
    },  # held-out screens and pages come from data_prep
    "reports": {"grounding", "rewards", "benchmarks"},  # the same monitor and the same intervals as everywhere
    "recipes": {"grounding", "rewards", "attention", "credit", "models", "data_prep", "benchmarks", "tools"},
    "train.py": {"grounding", "rewards", "credit", "models", "data_prep", "recipes", "reports"},
    "eval.py": {"grounding", "models", "credit", "data_prep", "benchmarks", "reports"},
    "predict.py": {"grounding", "models", "data_prep", "benchmarks", "reports"},
}
# A command may use what the package beneath it may not: nothing imports a `__main__`.
COMMANDS = {"data_prep/__main__.py": {"benchmarks"}}  # `curate --benchmark` is handed the reader of benchmarks
PACKAGES = [name for name in MAY_IMPORT if not name.endswith(".py")]
OURS = {*PACKAGES, "train", "eval", "predict", "perf", "tests"}

NO_HEAVY_IMPORTS = {"grounding", "reports"}
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "wandb"}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

LINES = 600
FILES = 20  # of a folder
LONG_FILES: dict[str, str] = {}  # path: why it is one file
READS_ENVIRONMENT = {  # path: which variable, and why no argument can say it
    "recipes/exit_codes.py": "RANK, as launchers set it: who prints a wrong key, before torch is there to ask",
    "models/chat_client.py": "the API key, from the variable that a recipe or command names: a secret stays outside",
}
PRINTS = {  # path: why, beside the entry points and every `__main__`
    "recipes/minimal.py": "an entry point by itself: a whole run in one file, to be read and started",
}
IMPORTS_PICKLE = {  # path: why, and what keeps it safe
    "data_prep/pipeline/pickles.py": "RefCOCO is published as a pickle; only plain data is let through",
    "models/loading.py": "the name of the error that torch raises for what is no tensor; it reads nothing itself",
}


@cache
def trees() -> dict[str, ast.Module]:
    """Every library file and the three entry points, by path relative to the repository."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    files += [path for path in (ROOT / "train.py", ROOT / "eval.py", ROOT / "predict.py") if path.exists()]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def package_of(name: str) -> str:
    return name.partition("/")[0]


IMPORTERS = {"import_module", "__import__", "find_spec", "run_module", "Registry"}  # a `Registry` imports its package


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, first part of the dotted name) of every import.

    The ones inside functions too, the ones by name (`importlib.import_module("benchmarks")`), and texts that are the
    import path of a module of ours (`"recipes.sft:SFT"`), which somebody will import.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            texts = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield from ((node.lineno, text.partition(".")[0]) for text in texts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_import_path(node.value):
            yield node.lineno, node.value.partition(".")[0]


def is_import_path(text: str) -> bool:
    """Whether a text is `package.module`, or something inside it, of a module that is there."""
    top, module, *_ = *re.split(r"[.:]", text), ""
    known = re.fullmatch(r"\w+(\.\w+)+(:\w+)?", text) and top in OURS
    return bool(known) and ((ROOT / top / module).is_dir() or (ROOT / top / f"{module}.py").is_file())


def offences(of_file: Callable[[str, ast.Module], Iterator[tuple[int, str]]]) -> str:
    """`file:line what` for everything `of_file` yields, one per line; empty when the tree is clean."""
    return "\n".join(f"{name}:{line} {what}" for name, tree in trees().items() for line, what in of_file(name, tree))


def nodes(kind: type[ast.AST], wrong: Callable[[ast.AST], bool]) -> Callable[[str, ast.Module], Iterator]:
    """An `of_file` that yields the nodes of one kind for which `wrong` holds."""

    def of_file(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
        for node in ast.walk(tree):
            if isinstance(node, kind) and wrong(node):
                yield node.lineno, ast.unparse(node)

    return of_file


def test_there_is_something_to_check():
    assert {package_of(name) for name in trees()} >= {"grounding", "reports"}


def test_imports_follow_the_arrows():
    def against_the_arrow(name, tree):
        allowed = MAY_IMPORT[package_of(name)] | {package_of(name)} | COMMANDS.get(name, set())
        return ((line, f"imports {top}") for line, top in imports(tree) if top in OURS and top not in allowed)

    assert not offences(against_the_arrow)


def test_imports_by_name_are_seen():
    hidden = """
import importlib
from importlib import import_module
importlib.import_module("benchmarks").BENCHMARKS
import_module(name="recipes.sft")
__import__("credit")
x = "tools.nothing", "recipes.sft:Stage", "data_prep.web", "rewards.box.iou", "benchmarks", "models is one", "a.b"
Registry("source", "reports")
"""
    found = [top for _, top in imports(ast.parse(hidden)) if top in OURS]
    assert sorted(set(found)) == ["benchmarks", "credit", "data_prep", "recipes", "reports", "rewards"]
    assert found.count("benchmarks") == 1


def test_arrows_form_no_cycle():
    seen: set[str] = set()
    rest = dict(MAY_IMPORT)
    while rest:
        free = [name for name, needs in rest.items() if needs <= seen]
        assert free, f"cycle among {sorted(rest)}"
        seen.update(free)
        rest = {name: needs for name, needs in rest.items() if name not in seen}


def test_imports_are_absolute():
    assert not offences(nodes(ast.ImportFrom, lambda node: node.level > 0))


def test_vocabulary_and_report_need_no_training_library():
    def heavy(name, tree):
        if package_of(name) in NO_HEAVY_IMPORTS:
            yield from ((line, f"imports {top}") for line, top in imports(tree) if top in HEAVY)

    assert not offences(heavy)


def test_libraries_do_not_print():
    def prints(name, tree):
        if name not in PRINTS and not name.endswith(("__main__.py", "train.py", "eval.py", "predict.py")):
            yield from nodes(ast.Call, lambda node: isinstance(node.func, ast.Name) and node.func.id == "print")(
                name, tree
            )

    assert not offences(prints)


def test_behavior_does_not_hang_on_environment_variables():
    def reads(name, tree):
        if name not in READS_ENVIRONMENT:
            yield from nodes(ast.Attribute, lambda node: node.attr in ("environ", "getenv"))(name, tree)

    assert not offences(reads)


def test_nothing_is_unpickled():
    def picklers(name, tree):
        if name not in IMPORTS_PICKLE:
            yield from ((line, f"imports {top}") for line, top in imports(tree) if top in PICKLERS)

    assert not offences(picklers)


def test_every_module_says_what_it_is_for():
    def silent(_name, tree):
        if tree.body and not ast.get_docstring(tree):
            yield 1, "has no docstring"

    assert not offences(silent)


def test_no_two_classes_have_one_name():
    perf = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "perf").glob("*.py")}
    defined: dict[str, list[str]] = {}
    for name, tree in {**trees(), **perf}.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, []).append(name)
    assert not {name: places for name, places in defined.items() if len(places) > 1}


def bound(statement):
    """Names that a statement of a module defines, assigns or imports."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [name.asname or name.name for name in statement.names]
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]


def test_measuring_scripts_import_what_exists():
    """Nobody else runs them, so a name that moved would be missed."""
    for path in sorted((ROOT / "perf").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module.split(".")[0] not in OURS:
                continue
            place = ROOT / node.module.replace(".", "/")
            module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            assert module.exists(), f"{path.name}: {node.module}"
            defined = {name for statement in ast.parse(module.read_text("utf-8")).body for name in bound(statement)}
            for name in node.names:
                found = name.name in defined or (place / f"{name.name}.py").exists() or (place / name.name).is_dir()
                assert found, f"{path.name}: {node.module}.{name.name}"


def test_no_two_modules_have_one_name():
    """But the source and the benchmark of one public data set both go by its name."""
    paths = [Path(name) for name in trees()] + [path.relative_to(ROOT) for path in (ROOT / "perf").glob("*.py")]
    places: dict[str, list[str]] = {}
    for path in paths:
        if path.parent != Path("benchmarks") or not any(
            p.stem == path.stem for p in paths if p.parts[0] == "data_prep"
        ):
            places.setdefault(path.stem, []).append(str(path))
    assert not {
        name: found for name, found in places.items() if len(found) > 1 and name not in {"__init__", "__main__"}
    }


def lines_of(name: str) -> int:
    return len((ROOT / name).read_text(encoding="utf-8").splitlines())


def test_files_stay_short():
    others = (
        path.relative_to(ROOT).as_posix() for folder in ("perf", "tests") for path in (ROOT / folder).rglob("*.py")
    )
    long = {name: lines_of(name) for name in (*trees(), *others) if lines_of(name) > LINES}
    unexplained = {name: lines for name, lines in long.items() if name not in LONG_FILES}
    assert not unexplained, f"over {LINES} lines: {unexplained}"


def test_no_folder_is_crowded():
    places = [path.parent for name in (*PACKAGES, "perf", "configs", "docs") for path in (ROOT / name).rglob("*.*")]
    counts = Counter(place.relative_to(ROOT).as_posix() for place in places if "__pycache__" not in place.parts)
    assert not {name: count for name, count in counts.items() if count > FILES}


def test_exceptions_are_still_needed():
    named = {*LONG_FILES, *READS_ENVIRONMENT, *PRINTS, *IMPORTS_PICKLE, *COMMANDS}
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]
    assert not [name for name in LONG_FILES if lines_of(name) <= LINES]
