"""A process that must act on an overloaded machine is served before the others, whatever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
SCRIPT = """
import os
from orchestrator.host.realtime import become_prompt
become_prompt()
print(os.getpriority(os.PRIO_PROCESS, 0))
print(open("/proc/self/autogroup").read() if os.path.exists("/proc/self/autogroup") else "")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask to be served first")
def test_it_is_preferred_in_its_session_and_its_session_among_others() -> None:
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, capture_output=True, text=True, check=True, start_new_session=True)
    nice, group = done.stdout.split("\n", 1)
    assert nice == "-15"
    if AUTOGROUP.exists():
        assert group.strip().endswith("nice -15")
