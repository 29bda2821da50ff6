"""The rules on skipped tests and on what tests leave behind can fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import ROOT


@pytest.mark.parametrize(
    ("body", "exit_code"), [("pass", 0), ("pytest.skip('no reason')", int(os.geteuid() == 0))]
)
def test_a_skip_fails_as_root(tmp_path: Path, body: str, exit_code: int) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_it():\n    {body}\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = run(words, tmp_path)
    assert done.returncode == exit_code, done.stdout


def test_a_process_that_is_left_fails_the_session_and_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    forgotten = "subprocess.Popen(['sleep', '97'], start_new_session=True, stdout=subprocess.DEVNULL)"
    # Its parent is gone before the session ends, and it is the program that it is to be.
    born = f"    if not pid:\n        {forgotten}\n        os._exit(0)\n"
    body = f"    pid = os.fork()\n{born}    os.waitpid(pid, 0)\n"
    (tmp_path / "test_it.py").write_text(f"import os, subprocess\n\ndef test_it():\n{body}")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = run(words, tmp_path)
    found = re.findall(r"process (\d+) \(sleep 97\)", done.stdout)
    assert len(found) == 1, done.stdout
    os.kill(int(found[0]), signal.SIGKILL)
    assert done.returncode == 1


def run(words: list[str], within: Path) -> subprocess.CompletedProcess[str]:
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=within, env=paths)
