"""A pulse that may not be punctual says so, and runs all the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json
from orchestrator.host.realtime import become_punctual
print(json.dumps(become_punctual()))
"""


def refused(*without: str) -> list[str]:
    """What a process that lacks these rights is refused, in its own words."""
    rights = ",".join(f"-{right}" for right in without)
    limits = ["prlimit", "--rtprio=0:0", "--memlock=65536:65536"] if without else []
    lacking = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if without else []
    done = subprocess.run(
        [*limits, *lacking, sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


def test_root_is_refused_nothing() -> None:
    assert refused() == []


@pytest.mark.parametrize(
    ("right", "words"), [("sys_nice", "no real-time scheduling"), ("ipc_lock", "memory is not locked")]
)
def test_each_right_that_is_missing_is_named_with_what_it_costs(right: str, words: str) -> None:
    (said,) = refused(right)
    assert words in said


def test_without_both_it_still_runs() -> None:
    assert len(refused("sys_nice", "ipc_lock")) == 2
