"""Mounting over a directory and unmounting, by mount(2) itself: no helper program takes part."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from orchestrator.model.errors import Unsupported

_libc = ctypes.CDLL(None, use_errno=True)

_DETACH = 2  # umount2: lazily
_UNCOVER_ATTEMPTS = 10  # one mount of ours, and one more for each death in the middle of a start
TYPE = "fuse.hafarm"
_INHERITED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_SYNCHRONOUS
"""As MS_NOSUID and so on: statvfs(3) and mount(2) give them the same numbers."""
_READ_AHEAD_KIB = 2048  # 128 KiB, the kernel's own, costs a third of a cold sequential read


def open_device() -> int:
    """A fresh /dev/fuse descriptor: one connection, not yet mounted."""
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as fault:
        raise Unsupported(
            what="/dev/fuse", why=str(fault.strerror), fix="load the kernel module fuse"
        ) from fault


def mount(device: int, path: str, below: int = 0) -> None:
    """Cover `path` with the connection; the requests wait until a session answers them.

    `below`: how the file system below is mounted, by statvfs's flags: what it forbids is forbidden here too.
    """
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576"
    result = _libc.mount(b"hafarm", os.fsencode(path), TYPE.encode(), below & _INHERITED, data.encode())
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def uncover(path: str) -> None:
    """Take our mounts off `path`, and never another's, whoever else does the same at this moment.

    Files that are open keep working until they are closed or the connection ends. Raises OSError, EBUSY when
    another file system is mounted over ours.
    """
    for _ in range(_UNCOVER_ATTEMPTS):
        if not mounts_of_ours(path):
            return
        # A descriptor names one mount. By its path, one that somebody else has just taken off would be the
        # disk that is mounted beneath it.
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if file_system_of(top) == TYPE:
                _detach(f"/proc/self/fd/{top}")
        finally:
            os.close(top)
    raise OSError(errno.EBUSY, "another file system is mounted over hafarm's", path)


def _detach(path: str) -> None:
    if _libc.umount2(os.fsencode(path), _DETACH) < 0:
        number = ctypes.get_errno()
        if number != errno.EINVAL:  # somebody else was faster
            raise OSError(number, os.strerror(number), path)


def mounts_of_ours(path: str) -> int:
    """How many of our mounts cover exactly this path; nothing is touched, so that a dead one cannot hang."""
    wanted = _point(path)
    return sum(point == wanted and kind == TYPE for point, kind in _mount_points())


def file_system_of(fd: int) -> str:
    """The kind of file system that an open directory is on."""
    facts = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    number = facts["mnt_id"].strip()
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        if fields[0] == number:
            return fields[fields.index("-") + 1]
    return "an unknown file system"


def mounts_inside(path: str) -> list[str]:
    """Other mounts below `path`."""
    return [point for point, _ in _mount_points() if point.startswith(_point(path) + "/")]


def raise_read_ahead(path: str) -> None:
    """Best effort: let the kernel read further ahead on this mount."""
    wanted = _point(path)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if _plain(fields[4]) == wanted and fields[fields.index("-") + 1] == TYPE:
            knob = Path(f"/sys/class/bdi/{fields[2]}/read_ahead_kb")
            try:
                knob.write_text(str(_READ_AHEAD_KIB))
            except OSError:
                pass  # sysfs is read-only in some containers; only speed is lost


def _point(path: str) -> str:
    """The path as mountinfo names it; its last part is not looked at, since a dead mount there would hang."""
    folder, name = os.path.split(path.rstrip("/"))
    return os.path.join(os.path.realpath(folder), name)


def _mount_points() -> list[tuple[str, str]]:
    points = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        points.append((_plain(fields[4]), fields[fields.index("-") + 1]))
    return points


def _plain(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
