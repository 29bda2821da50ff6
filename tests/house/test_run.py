"""./run: plain sh, quick when warm, and honest about what is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.house.rules import ROOT

RUN = ROOT / "run"


@pytest.mark.parametrize("script", ["run", ".ci/run"])
def test_it_is_plain_sh(script: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n")
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["sh", "-n", str(ROOT / script)], check=True, timeout=10)


def test_without_a_command_it_says_what_there_is() -> None:
    for words in ((), ("nonsense",)):
        done = subprocess.run([str(RUN), *words], capture_output=True, text=True, timeout=10)
        assert done.returncode == 2
        for command in ("demo", "tests", "check", "sim", "model", "chaos", "bench"):
            assert f"\n  {command} " in done.stdout + done.stderr


def _copy(tmp_path: Path) -> Path:
    """A tree in which everything is installed already, as its stamp says."""
    for name in ("run", "pyproject.toml", "requirements/uv.txt", "requirements/dev.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "run").chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH: $*"\n')
    python.chmod(0o755)
    pins = subprocess.run(
        ["cksum", "requirements/uv.txt", "requirements/dev.txt", "pyproject.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / ".venv" / ".installed").write_text(f"{tmp_path}\n{pins}")
    return tmp_path


def test_a_warm_machine_installs_nothing(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(tree / "run"), "sim", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (0, f"{tree}: -m tests.sim --seed 7\n"), done.stderr
    assert "installing" not in done.stderr


def test_what_was_compiled_is_kept(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    python = tree / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "${PYTHONDONTWRITEBYTECODE-may be written}"\n')
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    words = [str(tree / "run"), "sim"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == "may be written\n"


def test_what_is_installed_is_compiled(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    (tree / "requirements" / "dev.txt").write_text("# changed\n")
    seen = tmp_path / "seen"
    for name in ("python", "uv"):
        _script(tree / ".venv" / "bin" / name, f'echo "{name} $*" >>{seen}')
    subprocess.run([str(tree / "run"), "sim"], check=True, capture_output=True, timeout=60)
    did = seen.read_text().splitlines()
    assert [line for line in did if line.startswith("uv pip sync") and "--compile-bytecode" in line]
    assert f"python -m compileall -q {tree}/orchestrator" in did


def test_a_pin_that_changed_is_installed(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    (tree / "requirements" / "dev.txt").write_text("# changed\n")
    done = subprocess.run([str(tree / "run"), "sim"], capture_output=True, text=True, timeout=60)
    assert "installing Python packages" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ("", 0),
        ("pytest tests/whole --ignore", 1),
        ("pytest tests/whole/test_sqlite.py", 1),
        ("pytest tests/replicator", 1),
        ("pytest --ignore", 1),
        ("ruff", 1),
        ("mypy", 1),
    ],
    ids=["nothing", "a cluster's test", "a fault's test", "a disk's test", "another test", "lint", "types"],
)
def test_tests_exit_as_what_they_ran(tmp_path: Path, wrong: str, status: int) -> None:
    tree = _copy(tmp_path)
    for name in ("ruff", "mypy", "python"):
        script = f'echo "{name} $*"; case "{name} $*" in *"{wrong or "nothing"}"*) exit 1; esac'
        _script(tree / ".venv/bin" / name, script)
    text = (tree / "run").read_text().replace("    tests) want_tests; prepare;", "    tests) prepare;")
    (tree / "run").write_text(text)
    done = subprocess.run([str(tree / "run"), "tests"], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    faults = [f"tests/whole/test_{each}.py" for each in ("sqlite", "postgresql", "power_cuts", "registers")]
    whole = f"python -m pytest tests/whole {' '.join(f'--ignore={each}' for each in faults)}"
    ran = ["ruff format --check .", "ruff check .", "mypy ", whole]
    parts = [
        f"python -m pytest {' '.join(faults)}",
        "python -m pytest tests/replicator tests/fidelity",
        "python -m pytest --ignore=tests/whole --ignore=tests/replicator --ignore=tests/fidelity",
    ]
    assert done.stdout.splitlines() == [*ran, *(line for part in parts for line in (f"+ {part}", part))]


def _bare_tools(tmp_path: Path, user: int, *names: str) -> Path:
    """A PATH with these programs alone, as this user."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "cksum", "cat", *names):
        found = next(Path(folder) / name for folder in ("/bin", "/usr/bin") if (Path(folder) / name).exists())
        (tools / name).symlink_to(found)
    _script(tools / "id", f"echo {user}")
    return tools


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _run_bare(tree: Path, tools: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # `has` looks into the system's folders too; here they must look empty.
    text = (tree / "run").read_text().replace('PATH="$PATH:/usr/sbin:/sbin"', 'PATH="$PATH"')
    text = text.replace("/usr/bin/python3 ", "")
    (tree / "run").write_text(text)
    env = {"PATH": str(tools)}
    return subprocess.run([str(tree / "run"), *words], capture_output=True, text=True, timeout=60, env=env)


def test_a_machine_without_python_is_told_of_all_of_it(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    (tree / ".venv" / ".installed").unlink()
    done = _run_bare(tree, _bare_tools(tmp_path, 1000), "sim")
    assert done.returncode == 2
    assert "apt-get install -y --no-install-recommends python3 python3-venv\n" in done.stderr


def test_the_python_that_was_just_installed_is_used(tmp_path: Path) -> None:
    tree = _copy(tmp_path)
    (tree / ".venv" / ".installed").unlink()
    (tree / ".venv" / "bin" / "python").unlink()
    tools = _bare_tools(tmp_path, 0, "rm", "chmod")
    seen = tmp_path / "seen"
    python = f'case $1 in -m) echo "$*" >>{seen}; exit 9;; esac'
    _script(tools / "python3.new", python)
    _script(tools / "apt-get", f"/bin/mv {tools}/python3.new {tools}/python3")
    done = _run_bare(tree, tools, "sim")
    assert done.returncode == 9, done.stderr
    assert seen.read_text() == f"-m venv --clear {tree}/.venv\n"


def test_without_root_it_prints_the_line_that_installs(tmp_path: Path) -> None:
    """Played with a PATH that lacks `nft`, by a user who may not install it."""
    done = _run_bare(_copy(tmp_path), _bare_tools(tmp_path, 1000, "apt-get"), "demo")
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if "install it with:" in line)
    assert "apt-get install -y --no-install-recommends" in line
    for package in ("iproute2", "nftables", "procps", "util-linux", "mount", "e2fsprogs"):
        assert f" {package}" in line
