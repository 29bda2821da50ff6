"""Every code that can be shown is in the registry, once, and says what to do."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections import defaultdict
from pathlib import Path

import orchestrator
from orchestrator.model.codes import CODES
from orchestrator.model.errors import HafarmError
from tests.house.rules import ROOT

CODE = re.compile(r"HF[0-9]{4}")
OTHERS = {
    "orchestrator/model/codes.py",
    "orchestrator/model/codes_clouds.py",
    "orchestrator/model/codes_copies.py",
    "orchestrator/model/codes_farms.py",
    "orchestrator/model/codes_plane.py",
    "orchestrator/model/codes_platform.py",
    "orchestrator/model/codes_registers.py",
}


def _shown() -> dict[str, set[str]]:
    """Every code in a string of the product, docstrings aside, and the files that hold it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name in OTHERS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for code in CODE.findall(node.value):
                    found[code].add(name)
    return found


def _errors() -> list[type[HafarmError]]:
    for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    pending, found = [HafarmError], []
    while pending:
        each = pending.pop()
        found.append(each)
        pending += each.__subclasses__()
    return [each for each in found if each.__module__.startswith("orchestrator.")]


def test_every_code_that_is_shown_is_registered() -> None:
    unknown = {code: files for code, files in _shown().items() if code not in CODES}
    assert unknown == {}


def test_every_registered_code_is_shown_somewhere() -> None:
    assert set(CODES) - set(_shown()) == set()


def test_every_error_has_a_registered_code_of_its_own() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for error in _errors():
        assert error.code in CODES, error
        if "code" in error.__dict__:
            owners[error.code].add(f"{error.__module__}.{error.__name__}")
    shared = {code: names for code, names in owners.items() if len(names) > 1}
    assert shared == {}


def test_every_text_is_whole() -> None:
    for name, code in CODES.items():
        assert CODE.fullmatch(name)
        assert code.title == code.title.strip(), name
        assert code.meaning.endswith("."), name
        assert code.remedy.endswith("."), name
        assert 1 <= code.exit <= 8, name


def test_commands_in_remedies_exist() -> None:
    from orchestrator.cli.main import COMMANDS

    for name, code in CODES.items():
        for command in re.findall(r"`hafarm ([a-z]+)", code.remedy):
            assert command in COMMANDS, f"{name}: hafarm {command}"


def test_docs_name_only_codes_that_exist() -> None:
    for path in [ROOT / "README.md", *Path(ROOT / "docs").glob("*.md")]:
        for code in CODE.findall(path.read_text(encoding="utf-8")):
            assert code in CODES, f"{path.name}: {code}"
