"""Sequences of file operations drawn from a seed: few names, many collisions, several users."""

from __future__ import annotations

import os
import random
import stat
import struct
from collections.abc import Callable
from typing import Any, Final

from tests.fidelity.worker import SET_TIMES

Operation = tuple[Any, ...]
"""(who, verb, arguments...): plain literals, so that a printed list of them runs as it stands."""

USERS: Final[dict[str, tuple[int, ...]]] = {
    "root": (0, 0),
    "ann": (1001, 1001, 2000),
    "bob": (1002, 1002, 2000),
}
"""Who: user, group, further groups. Ann and Bob share one."""

PUNCH: Final = 3  # FALLOC_FL_PUNCH_HOLE, which needs FALLOC_FL_KEEP_SIZE
LONG: Final = b"n" * 255
_NAMES: Final = (b"a", b"b", b"c", b"d", b"\xff\xfe\n", LONG)
_SLOTS: Final = 4
_OFFSETS: Final = (0, 1, 100, 4095, 4096, 5000, 8192, 65536, 100_001, 1 << 20, 5 << 20)
_SIZES: Final = (0, 1, 10, 511, 4096, 5000, 20_000, 150_000)
_MODES: Final = (
    0o644,
    0o666,
    0o666,
    0o777,
    0o777,
    0o755,
    0o4755,
    0o2755,
    0o6777,
    0o1777,
    0o2775,
    0o000,
    0o2644,
)
_XATTRS: Final = (b"user.a", b"user.long." + b"x" * 200, b"trusted.t", b"security.capability")
_CAPABILITY: Final = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # revision 2: cap_net_bind_service
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_EVERYBODY: Final = 0xFFFFFFFF
_HOLES: Final = (os.SEEK_DATA, os.SEEK_HOLE)
_DEVICES: Final = ((stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(250, 70_000)))

PREAMBLE: Final[tuple[Operation, ...]] = (
    ("root", "mkdir", b"d", 0o777),
    ("root", "mkdir", b"d/d", 0o777),
    ("root", "chmod", b"d", 0o777),
    ("root", "chmod", b"d/d", 0o777),
    ("ann", "open", 0, b"a", os.O_CREAT | os.O_RDWR, 0o666),
    ("ann", "pwrite", 0, 0, 5000, 1),
    ("root", "open", 0, b"d/b", os.O_CREAT | os.O_RDWR, 0o666),
)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel has it: (tag, rights, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def generate(seed: int, count: int) -> list[Operation]:
    """So many operations; the same for the same seed.

    What SEEK_HOLE says of reserved blocks is a matter of what is in memory at the moment, and of what the
    file system found cheaper to zero: a sequence asks for holes or reserves blocks, not both.
    """
    draw = Draw(seed)
    verbs = dict(_VERBS)
    del verbs[draw.choice(("lseek_hole", "fallocate"))]
    names, weights = list(verbs), [weight for weight, _ in verbs.values()]
    drawn = list(PREAMBLE)
    for operation in PREAMBLE:
        draw.note(operation)
    while len(drawn) < count:
        draw.who = draw.choices(list(USERS), (4, 3, 2))[0]
        verb = draw.choices(names, weights)[0]
        operation = (draw.who, verb.removesuffix("_hole"), *verbs[verb][1](draw))
        draw.note(operation)
        drawn.append(operation)
    return drawn


class Draw(random.Random):
    """Dice that know roughly what is there by now, so that most of what they ask for can be done."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.who = "root"
        self._opened: dict[str, dict[int, None]] = {who: {} for who in USERS}
        self._known: dict[bytes, str] = {}
        """What made each path."""

    def slot(self) -> int:
        opened = list(self._opened[self.who])
        return self.choice(opened) if opened and self.random() < 0.9 else self.randrange(_SLOTS)

    def new_slot(self) -> int:
        return self.randrange(_SLOTS)

    def there(self) -> bytes:
        """Most often the path of something."""
        known = list(self._known)
        return self.choice(known) if known and self.random() < 0.85 else self.path()

    def file(self) -> bytes:
        """Most often the path of something that is no directory."""
        known = [path for path, made in self._known.items() if made != "mkdir"]
        return self.choice(known) if known and self.random() < 0.85 else self.there()

    def directory(self) -> bytes:
        known = [b".", *(path for path, made in self._known.items() if made == "mkdir")]
        return self.choice(known) if self.random() < 0.95 else self.there()

    def path(self) -> bytes:
        """Any name, most often in a directory that is there."""
        above = self.directory()
        name = self.choice(_NAMES)
        return name if above == b"." or above.count(b"/") > 2 else above + b"/" + name

    def note(self, operation: Operation) -> None:
        """As if it had succeeded."""
        who, verb, *arguments = operation
        match verb, arguments:
            case "open" | "tmpfile", [slot, path, flags, *_]:
                self._opened[who][slot] = None
                if verb == "open" and flags & os.O_CREAT:
                    self._known.setdefault(path, verb)
            case "close", [slot]:
                self._opened[who].pop(slot, None)
            case "mkdir" | "mknod" as made, [path, *_]:
                self._known.setdefault(path, made)
            case "linkfd" | "symlink" | "link" as made, [_, path]:
                self._known.setdefault(path, made)
            case "unlink" | "rmdir", [path]:
                self._known.pop(path, None)
            case "rename", [old, new, _]:
                for path in [path for path in self._known if path == old or path.startswith(old + b"/")]:
                    self._known[new + path[len(old) :]] = self._known.pop(path)


def reserves_blocks(operations: list[Operation]) -> bool:
    """Then where its data is cannot be compared."""
    return any(operation[1] == "fallocate" and operation[3] != PUNCH for operation in operations)


def _at(draw: Draw) -> int:
    return draw.choice(_OFFSETS) + draw.choice((0, 0, 0, 7))


def _size(draw: Draw) -> int:
    return draw.choice(_SIZES)


def _seed(draw: Draw) -> int:
    return draw.randrange(1000)


def _owner(draw: Draw) -> tuple[int, int]:
    return draw.choice((-1, 0, 1001, 1002)), draw.choice((-1, 0, 1001, 1002, 2000))


def _open_flags(draw: Draw) -> int:
    flags = draw.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
    for flag, chance in (
        (os.O_CREAT, 0.7),
        (os.O_EXCL, 0.1),
        (os.O_TRUNC, 0.15),
        (os.O_APPEND, 0.2),
        (os.O_DSYNC, 0.05),
        (os.O_SYNC, 0.05),
        (os.O_NOFOLLOW, 0.1),
        (os.O_DIRECTORY, 0.03),
    ):
        if draw.random() < chance:
            flags |= flag
    return draw.choice((flags,) * 20 + (os.O_PATH,))


def _some_acl(draw: Draw) -> bytes:
    rights = [draw.randrange(8) for _ in range(5)]
    if draw.random() < 0.2:
        # No more than a mode can say.
        return acl((1, rights[0], _EVERYBODY), (4, rights[1], _EVERYBODY), (32, rights[2], _EVERYBODY))
    return acl(
        (1, rights[0], _EVERYBODY),
        (2, rights[1], draw.choice((1001, 1002))),
        (4, rights[2], _EVERYBODY),
        (16, rights[3], _EVERYBODY),
        (32, rights[4], _EVERYBODY),
    )


def _xattr(draw: Draw) -> tuple[bytes, bytes, int]:
    name = draw.choice(_XATTRS + _ACLS * 2)
    flags = draw.choice((0, 0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
    if name in _ACLS:
        return name, _some_acl(draw), 0
    if name == b"security.capability":
        return name, _CAPABILITY, flags
    return name, draw.choice((b"", b"v", bytes([_seed(draw) % 256]) * 1500)), flags


def _xattr_name(draw: Draw) -> bytes:
    return draw.choice(_XATTRS + _ACLS)


def _target(draw: Draw) -> bytes:
    return draw.choice(
        (
            draw.choice(_NAMES),
            draw.there(),
            b"../" + draw.there(),
            b"x/" * 300 + b"x",
            b"y" * 1023,
            b"z" * 4095,
        )
    )


def _node(draw: Draw) -> tuple[int, int]:
    kind, device = draw.choice(((stat.S_IFIFO, 0), (stat.S_IFSOCK, 0), (stat.S_IFREG, 0), *_DEVICES))
    return kind | draw.choice(_MODES), device


def _times(draw: Draw) -> tuple[int, int]:
    return draw.choice(SET_TIMES), draw.choice(SET_TIMES)


# How often each is drawn, and with which arguments.
_VERBS: Final[dict[str, tuple[int, Callable[[Draw], tuple[Any, ...]]]]] = {
    "open": (
        14,
        lambda draw: (
            draw.new_slot(),
            draw.choice((draw.path, draw.file, draw.file))(),
            _open_flags(draw),
            draw.choice(_MODES),
        ),
    ),
    "close": (6, lambda draw: (draw.slot(),)),
    "pread": (6, lambda draw: (draw.slot(), _at(draw), _size(draw))),
    "pwrite": (10, lambda draw: (draw.slot(), _at(draw), _size(draw), _seed(draw))),
    "write": (5, lambda draw: (draw.slot(), _size(draw), _seed(draw))),
    "lseek": (2, lambda draw: (draw.slot(), _at(draw), draw.choice((0, 1, 2)))),
    "lseek_hole": (5, lambda draw: (draw.slot(), _at(draw), draw.choice(_HOLES))),
    "ftruncate": (4, lambda draw: (draw.slot(), _at(draw))),
    "fsync": (1, lambda draw: (draw.slot(),)),
    "fdatasync": (1, lambda draw: (draw.slot(),)),
    "fallocate": (5, lambda draw: (draw.slot(), draw.choice((0, 1, 2, 16, 17)), _at(draw), _size(draw))),
    "fallocate_hole": (3, lambda draw: (draw.slot(), PUNCH, _at(draw), _size(draw))),
    "copy_range": (2, lambda draw: (draw.slot(), draw.slot(), _size(draw), _at(draw), _at(draw))),
    "mmap_store": (3, lambda draw: (draw.slot(), _at(draw), max(_size(draw), 1), _seed(draw))),
    "fstat": (5, lambda draw: (draw.slot(),)),
    "fchmod": (2, lambda draw: (draw.slot(), draw.choice(_MODES))),
    "fchown": (2, lambda draw: (draw.slot(), *_owner(draw))),
    "futimens": (2, lambda draw: (draw.slot(), *_times(draw))),
    "fsetxattr": (2, lambda draw: (draw.slot(), *_xattr(draw))),
    "fgetxattr": (2, lambda draw: (draw.slot(), _xattr_name(draw))),
    "flock": (2, lambda draw: (draw.slot(), draw.choice((1, 2, 8)))),
    "lockf": (2, lambda draw: (draw.slot(), draw.choice((1, 2, 8)), draw.choice((0, 10)), _at(draw) % 100)),
    "tmpfile": (
        3,
        lambda draw: (draw.new_slot(), draw.directory(), os.O_RDWR, draw.choice(_MODES)),
    ),
    "linkfd": (4, lambda draw: (draw.slot(), draw.path())),
    "truncate": (3, lambda draw: (draw.file(), _at(draw))),
    "mkdir": (5, lambda draw: (draw.path(), draw.choice(_MODES))),
    "rmdir": (4, lambda draw: (draw.choice((draw.directory, draw.there))(),)),
    "unlink": (7, lambda draw: (draw.file(),)),
    "rename": (
        9,
        lambda draw: (draw.there(), draw.choice((draw.path, draw.there))(), draw.choice((0, 0, 0, 1, 2))),
    ),
    "link": (5, lambda draw: (draw.file(), draw.path())),
    "symlink": (3, lambda draw: (_target(draw), draw.path())),
    "readlink": (2, lambda draw: (draw.there(),)),
    "mknod": (3, lambda draw: (draw.path(), *_node(draw))),
    "chmod": (4, lambda draw: (draw.there(), draw.choice(_MODES))),
    "lchown": (3, lambda draw: (draw.there(), *_owner(draw))),
    "utimens": (3, lambda draw: (draw.there(), *_times(draw))),
    "touch": (1, lambda draw: (draw.there(),)),
    "stat": (3, lambda draw: (draw.there(),)),
    "lstat": (6, lambda draw: (draw.there(),)),
    "listdir": (3, lambda draw: (draw.directory(),)),
    "access": (2, lambda draw: (draw.there(), draw.randrange(8))),
    "setxattr": (4, lambda draw: (draw.file(), *_xattr(draw))),
    "getxattr": (3, lambda draw: (draw.file(), _xattr_name(draw))),
    "listxattr": (3, lambda draw: (draw.there(),)),
    "removexattr": (3, lambda draw: (draw.there(), _xattr_name(draw))),
    "umask": (1, lambda draw: (draw.choice((0o022, 0o077, 0o000, 0o027)),)),
}
