"""An application for tests that keeps nothing open: it finds its log by name for each line, and tells it.

    opener.py LOG TOLD

The lines that were synced are appended to TOLD, which lies outside the replicated directory.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def main() -> None:
    log, told = sys.argv[1:]
    ledger = os.open(told, APPEND, 0o644)
    for number in itertools.count():
        line = f"{os.environ['HAFARM_NODE']}-{os.getpid()}-{number}\n".encode()
        try:
            file = os.open(log, APPEND, 0o644)
            os.write(file, line)
            os.fsync(file)
            os.close(file)
        except OSError:
            time.sleep(0.0005)  # as an application that tries again and again, and never ends by itself
        else:
            os.write(ledger, line)


if __name__ == "__main__":
    main()
