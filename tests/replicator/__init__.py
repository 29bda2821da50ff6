"""The replicator's tests: of many mounts the tests' own process is the one that answers."""

import subprocess

# A vforked child that enters such a mount, or executes a file of it, holds the interpreter's lock of whoever
# has to answer it: both would wait for ever. A forked one holds nothing.
subprocess._USE_VFORK = False  # type: ignore[misc]
