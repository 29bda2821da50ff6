"""The first process of a demonstration's node: makes it look like a machine of its own, then reaps orphans.

init.py PLAN.json       {"hostname", "cgroup", "image", "disk", "binds": [[source, target], ...]}
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Final

SHARED_MEMORY: Final = "/dev/shm"  # of its own: a machine that loses power leaves none behind


def main() -> None:
    """Prepare the private mounts, say `ready`, live until killed; every process of the node dies with us."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    if plan["hostname"]:
        socket.sethostname(plan["hostname"])
    if plan["image"]:
        _mount("-o", "loop", plan["image"], plan["disk"])
    if os.path.isdir(SHARED_MEMORY):
        _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", SHARED_MEMORY)
    for source, target in plan["binds"]:
        os.makedirs(source, exist_ok=True)
        os.makedirs(target, exist_ok=True)
        _mount("--bind", source, target)
    print("ready", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigtimedwait([signal.SIGCHLD], 0.2)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"mount {' '.join(words)}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
