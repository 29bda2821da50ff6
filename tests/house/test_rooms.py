"""The house: who may import whom, and what no file holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.house.rules import (
    FLOORS,
    LINES_MAX,
    PURE,
    ROOT,
    habit_faults,
    import_faults,
    room_of,
    says_its_idea,
    text_faults,
)


def _ours(*patterns: str) -> list[Path]:
    """Files of the repository, as git knows them, those not yet added too; else those that are there."""
    found = _known_to_git(patterns) or _there(patterns)
    assert found, patterns
    return [path for path in found if (ROOT / path).is_file() and not (ROOT / path).is_symlink()]


def _known_to_git(patterns: tuple[str, ...]) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    if shutil.which("git") is None:
        return []
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return [Path(line) for line in listed.stdout.splitlines()]


def _there(patterns: tuple[str, ...]) -> list[Path]:
    """A tree that was unpacked on a bare machine: everything but what we made ourselves."""
    every = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
    ours = [path for path in every if not any(part.startswith((".", "__py")) for part in path.parts)]
    return sorted(path for path in ours if any(fnmatch(str(path), pattern) for pattern in patterns))


def _read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PRODUCT = [path for path in _ours("orchestrator/*.py") if path.name != "__init__.py" or _read(path).strip()]
SOURCES = _ours("*.py")


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_imports_point_down(path: Path) -> None:
    if path == Path("orchestrator/__init__.py"):
        return
    assert list(import_faults(room_of(path), _read(path))) == []


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(path) for path in PRODUCT if len(path.parts) > 2 or path.name == "node.py"}
    assert rooms <= set(FLOORS), f"rooms without a floor: {rooms - set(FLOORS)}"


def test_floors_have_no_circle() -> None:
    for room, below in FLOORS.items():
        for other in below:
            assert room not in FLOORS[other], f"{room} and {other} stand on each other"


def test_pure_rooms_stand_on_pure_rooms_alone() -> None:
    for room in PURE:
        assert set(FLOORS[room]) <= set(PURE), room


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_habits(path: Path) -> None:
    assert list(habit_faults(_read(path))) == []


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_a_file_says_its_one_idea(path: Path) -> None:
    assert says_its_idea(_read(path)), f"{path} opens with no docstring"


def test_no_file_is_too_long_or_names_a_registry() -> None:
    # Pins and the licence are as long as they are; this room's own rules must name what they forbid.
    exempt = {Path("tests/house/rules.py"), Path("tests/house/test_rules.py")}
    texts = [
        path for path in _ours("*") if path.suffix in (".py", ".md", ".toml", ".yaml", ".sh", ".txt", "")
    ]
    faults = []
    for path in texts:
        if path in exempt or path.name == "LICENSE":
            continue
        # Only code has a length that matters.
        lines_max = LINES_MAX if path.suffix == ".py" else sys.maxsize
        faults += [f"{path}: {fault}" for fault in text_faults(_read(path), lines_max)]
    assert faults == []


def test_assertions_stay_on() -> None:
    """Nothing of ours starts Python with -O, under which a programmer's mistake would pass."""
    for path in [*_ours("templates/*", "*.toml", "run"), *PRODUCT]:
        text = _read(path)
        assert "PYTHONOPTIMIZE" not in text, path
        assert '"-O"' not in text, path
        assert "python -O" not in text, path


def test_without_git_the_same_files_are_found() -> None:
    known = [path for path in _known_to_git(("orchestrator/*.py",)) if not (ROOT / path).is_symlink()]
    assert not known or sorted(known) == _there(("orchestrator/*.py",))
    assert Path("orchestrator/node.py") in _there(("orchestrator/*.py",))
    assert not any("__pycache__" in path.parts or ".venv" in path.parts for path in _there(("*",)))
