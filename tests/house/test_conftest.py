"""The rule on skipped tests can fail."""

from __future__ import annotations

import os
import shutil
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
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == exit_code, done.stdout
