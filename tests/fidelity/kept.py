"""Sequences that once showed a difference, as they were shrunk, by what was wrong."""

from __future__ import annotations

from typing import Final

from tests.fidelity.operations import Operation

KEPT: Final[dict[str, list[Operation]]] = {
    "allocating by another user leaves setgid": [
        ("bob", "open", 0, b"a", 577, 0o2755),
        ("bob", "fallocate", 0, 3, 0, 20000),
        ("bob", "fstat", 0),
    ],
    "there are no files without a name": [
        ("ann", "tmpfile", 0, b".", 2, 0o640),
        ("ann", "pwrite", 0, 4095, 5000, 1),
        ("ann", "linkfd", 0, b"a"),
        ("ann", "pwrite", 0, 0, 10, 2),
        ("ann", "fstat", 0),
    ],
    "a directory that is exchanged across directories is modified on XFS": [
        ("root", "mkdir", b"d", 0),
        ("root", "mkdir", b"d/d", 0),
        ("root", "chmod", b"d", 511),
        ("root", "chmod", b"d/d", 511),
        ("ann", "open", 0, b"a", 66, 0),
        ("root", "rename", b"a", b"d/d", 2),
    ],
}
