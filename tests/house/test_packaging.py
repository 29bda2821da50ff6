"""What a stranger installs: a wheel with everything in it, and pins that no archive can change unseen."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.house.rules import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = {
    name: wanted for name, wanted in PROJECT["project"]["optional-dependencies"].items() if name != "all"
}
PINS = sorted(path.name for path in (ROOT / "requirements").glob("*.txt"))


def _named(requirement: str) -> str:
    """The project that a requirement asks for, as archives spell it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _pinned(file: str) -> dict[str, list[str]]:
    """Each requirement of a file, and its hashes."""
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {line.split()[0]: re.findall(r"--hash=sha256:([0-9a-f]{64})", line) for line in lines}


@pytest.mark.parametrize("file", PINS)
def test_every_pin_is_one_version_with_hashes_and_no_address(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
    assert not re.search(r"://|\bgit\+|--(extra-)?index|--find-links| @ ", text)
    pinned = _pinned(file)
    assert pinned
    for requirement, hashes in pinned.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][A-Za-z0-9.+!-]*", requirement), requirement
        assert hashes, f"{file}: {requirement} has no hash"


def test_the_pins_hold_what_the_project_asks_for() -> None:
    base = {_named(one) for one in _pinned("base.txt")}
    assert {_named(one) for one in PROJECT["project"]["dependencies"]} <= base
    for extra, wanted in EXTRAS.items():
        pinned = {_named(one) for one in _pinned(f"{extra}.txt")}
        assert {_named(one) for one in wanted} <= pinned, extra
    assert PROJECT["project"]["optional-dependencies"]["all"] == [f"hafarm[{','.join(sorted(EXTRAS))}]"]


def test_the_wheel_has_the_command_the_licence_and_the_templates(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("orchestrator", "templates"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"hafarm-{PROJECT['project']['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        info = f"hafarm-{PROJECT['project']['version']}.dist-info"
        assert "hafarm = orchestrator.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        for template in (ROOT / "templates").rglob("*"):
            if template.is_file():
                name = f"orchestrator/templates/{template.relative_to(ROOT / 'templates')}"
                assert archive.read(name) == template.read_bytes()
    assert f"{info}/licenses/LICENSE" in inside
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "orchestrator").rglob("*.py")}
    assert modules <= inside
