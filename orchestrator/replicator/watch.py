"""The keeper's own program once it holds everything: starts the replicator again and again. Nothing else.

    python -I -S watch.py orchestrator.replicator.keeper SETTINGS.json GIVEN LOCK

It is there for as long as its mirror, one beside each replicator: isolated and without site-packages, it is
little more than the interpreter. The first word is for whoever looks for it among the processes. GIVEN is
passed on as it is, with the descriptors that it names; LOCK is the number of the one that stays here.
"""

from __future__ import annotations

import os
import sys
import time

STOPPED, GAVE_UP = 0, 3
"""How a replicator ends when it is not to be started again: asked to, or it cannot take its mount back."""
_RESTART_S = (
    0.0,
    0.1,
    0.5,
    2.0,
)  # the first at once: it is felt; the last for ever: a replicator that cannot run
_LONG_LIFE_S = 10.0  # a replicator that lived so long is restarted at once again


def main() -> int:
    """Return when the replicator is not to be started again."""
    _, _, path, given, lock = sys.argv
    os.set_inheritable(int(lock), False)  # a replicator that outlived us would keep the next keeper out
    command = [sys.executable, "-m", "orchestrator.replicator.main", path, given]
    failures = 0
    while True:
        born = time.monotonic()
        child = os.posix_spawn(sys.executable, command, os.environ)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (STOPPED, GAVE_UP):
            return 0
        failures = 1 if time.monotonic() - born > _LONG_LIFE_S else failures + 1
        time.sleep(_RESTART_S[min(failures - 1, len(_RESTART_S) - 1)])


if __name__ == "__main__":
    sys.exit(main())
