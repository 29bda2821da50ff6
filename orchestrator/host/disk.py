"""Files below one directory, and the system calls for them that Python's os module does not have."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import time
from collections.abc import Callable
from itertools import count
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers of the system calls that old C libraries do not wrap; the newer ones are the same on every machine.
_OPENAT2: Final = 437
_RENAMEAT2: Final = {"x86_64": 316, "aarch64": 276}.get(platform.machine(), 316)

_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
AT_EMPTY_PATH: Final = 0x1000
AT_SYMLINK_FOLLOW: Final = 0x400
HERE: Final = -100
"""In place of a directory's descriptor: the thread's working directory (AT_FDCWD)."""

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
ALLOCATE_MODES: Final = frozenset({0, 1, 3, 16, 17})
"""Those of fallocate(2) that the kernel passes to a FUSE file system."""

_FAULTS: Final = frozenset({errno.EIO, errno.EROFS, errno.ESHUTDOWN, errno.EBADMSG, 117})
# What ext4 and XFS answer when their own structures are damaged: EBADMSG for a wrong checksum, 117 (EUCLEAN).


class SyncFailed(OSError):
    """What was to be on the disk is lost, whatever the number: a later sync that succeeds proves nothing."""


def is_disk_fault(fault: BaseException | None) -> bool:
    """True when this error means that the disk or its file system failed; a full disk is an answer."""
    return isinstance(fault, SyncFailed) or (isinstance(fault, OSError) and fault.errno in _FAULTS)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


_PATH_MAX: Final = 4095  # of the kernel, for one call


def open_beneath(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open a relative path that never leaves `root` and crosses no symbolic link, however long it is."""
    if b"\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if len(path) <= _PATH_MAX:
        return _open_beneath(root, path, flags, mode)
    here = root
    try:
        while len(path) > _PATH_MAX:
            cut = path.rfind(b"/", 0, _PATH_MAX + 1)
            if cut <= 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            inner = _open_beneath(here, path[:cut], os.O_PATH | os.O_DIRECTORY, 0)
            if here != root:
                os.close(here)
            here, path = inner, path[cut + 1 :]
        return _open_beneath(here, path, flags, mode)
    finally:
        if here != root:
            os.close(here)


def _open_beneath(root: int, path: bytes, flags: int, mode: int) -> int:
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, mode, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    return _check(_libc.syscall(_OPENAT2, root, path, how, len(how)))


def open_name(directory: int, name: bytes) -> int:
    """A handle (O_PATH, symbolic links not followed) of one name in a directory."""
    check_name(name)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def check_name(name: bytes) -> None:
    """Refuse what is not one plain name: empty, dots, a slash, a NUL, too long."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if len(name) > 255:  # NAME_MAX of every file system in use
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def path_of(fd: int) -> str:
    """A path that leads to the very object behind an O_PATH descriptor, whatever it is named now."""
    return f"/proc/self/fd/{fd}"


def reopen(fd: int, flags: int) -> int:
    """Open for reading or writing the object behind an O_PATH descriptor."""
    return os.open(path_of(fd), (flags & ~os.O_NOFOLLOW) | os.O_CLOEXEC)


def rename(directory: int, name: bytes, new_directory: int, new_name: bytes, flags: int) -> None:
    _check(_libc.syscall(_RENAMEAT2, directory, name, new_directory, new_name, ctypes.c_uint(flags)))


def link(fd: int, directory: int, name: bytes) -> None:
    """Give the object behind an O_PATH descriptor one more name."""
    _check(_libc.linkat(fd, b"", directory, name, AT_EMPTY_PATH))


def chown(fd: int, uid: int, gid: int) -> None:
    """Change the owner of the object behind an O_PATH descriptor, of a symbolic link itself too."""
    _check(
        _libc.fchownat(
            fd, b"", ctypes.c_uint(uid & 0xFFFFFFFF), ctypes.c_uint(gid & 0xFFFFFFFF), AT_EMPTY_PATH
        )
    )


UTIME_OMIT: Final = (1 << 30) - 2
_TIMES: Final = struct.Struct("<qqqq")


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set times of the object behind an O_PATH descriptor; None leaves that one as it is."""
    atime = (0, UTIME_OMIT) if atime_ns is None else divmod(atime_ns, 10**9)
    mtime = (0, UTIME_OMIT) if mtime_ns is None else divmod(mtime_ns, 10**9)
    _check(_libc.utimensat(fd, b"", _TIMES.pack(*atime, *mtime), AT_EMPTY_PATH))


_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.lseek.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)


def allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _check(_libc.fallocate(fd, mode, offset, length))


_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE: Final = 2


def begin_write_back(fd: int) -> None:
    """Let what is in memory of this file go to the disk now. A fault of the disk shows at the next sync."""
    _libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


_unanswered: Final[dict[int, float]] = {}
"""Since when a disk is awaited, by a number of this process."""
_numbers: Final = count()


class Asked:
    """Within it a disk is awaited, whose silence is its only sign that it hangs."""

    __slots__ = ("_number",)

    def __enter__(self) -> None:
        self._number = next(_numbers)
        _unanswered[self._number] = time.monotonic()

    def __exit__(self, *_: object) -> None:
        del _unanswered[self._number]


def longest_wait_s() -> float:
    """For how long the first of all answers is awaited that a disk owes to this process; 0: none is."""
    since = min(_unanswered.copy().values(), default=None)
    return 0.0 if since is None else time.monotonic() - since


def fsync(fd: int) -> None:
    """fsync(2); SyncFailed where the kernel could not write: it says so once, then takes it for written."""
    _synced(os.fsync, fd)


def fdatasync(fd: int) -> None:
    """fdatasync(2), in the same way."""
    _synced(os.fdatasync, fd)


def sync_filesystem(fd: int) -> None:
    """syncfs(2), through a descriptor that is not O_PATH, in the same way: all of it is on its disk."""
    _synced(lambda fd: _check(_libc.syncfs(fd)), fd)


def _synced(sync: Callable[[int], object], fd: int) -> None:
    try:
        with Asked():
            sync(fd)
    except OSError as fault:
        if fault.errno == errno.EINVAL:
            raise  # a kind of file that cannot be synced
        raise SyncFailed(fault.errno or errno.EIO, fault.strerror) from fault


_STATX_MNT_ID: Final = 0x1000
_STATX_MNT_ID_UNIQUE: Final = 0x4000  # Linux 6.8
_MNT_ID_AT: Final = 0x90
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_BTIME_AT: Final = 0x50  # of stx_btime in struct statx: seconds (64 bits), nanoseconds (32)
_AT_SYMLINK_NOFOLLOW: Final = 0x100


def mount_of(fd: int) -> list[int]:
    """What tells this mount from any other, an earlier one of the same file system too.

    Before Linux 6.8 a later mount may have the number again, and is then taken for the same.
    """
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    _check(_libc.statx(fd, b"", AT_EMPTY_PATH, _STATX_MNT_ID | _STATX_MNT_ID_UNIQUE, buffer))
    mask: int = struct.unpack_from("<I", buffer)[0]
    return [mask & (_STATX_MNT_ID | _STATX_MNT_ID_UNIQUE), struct.unpack_from("<Q", buffer, _MNT_ID_AT)[0]]


def birth_time_ns(directory: int, name: bytes) -> int | None:
    """When this object was made on this disk, in ns since the epoch; None where that is not kept."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW
    _check(_libc.statx(directory, name, flags, _STATX_BTIME, buffer))
    if not struct.unpack_from("<I", buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, _BTIME_AT)
    return seconds * 10**9 + nanoseconds or None  # some file systems answer 0 for what they do not know


def sync_directory(fd: int) -> None:
    """Make the names in the directory behind an O_PATH descriptor durable."""
    real = reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(real)
    finally:
        os.close(real)


# --- extended attributes of the object behind an O_PATH descriptor ------------------------------------------


def list_xattrs(fd: int, is_open: bool = False) -> list[bytes]:
    """`is_open`: the descriptor is no O_PATH one."""
    return [os.fsencode(name) for name in os.listxattr(fd if is_open else path_of(fd))]


def get_xattr(fd: int, name: bytes) -> bytes:
    return os.getxattr(path_of(fd), name)


def set_xattr(fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
    os.setxattr(path_of(fd), name, value, flags)


def remove_xattr(fd: int, name: bytes) -> None:
    os.removexattr(path_of(fd), name)


# --- file handles: an object found again without any name (name_to_handle_at) -------------------------------

_HANDLE_BYTES_MAX: Final = 128  # MAX_HANDLE_SZ
_HandleRoom = ctypes.c_char * (8 + _HANDLE_BYTES_MAX)
_EMPTY_HANDLE: Final = struct.pack("<Ii", _HANDLE_BYTES_MAX, 0) + bytes(_HANDLE_BYTES_MAX)
_ANY_MOUNT = ctypes.byref(ctypes.c_int())
"""Where the kernel writes a mount's number; nobody reads it."""


def handle_of(directory: int, name: bytes) -> bytes:
    """The file system's own lasting name of an object: type and handle, with the inode's generation in it.

    An empty name means the object behind the descriptor `directory` itself.
    """
    room = _HandleRoom.from_buffer_copy(_EMPTY_HANDLE)
    _check(_libc.name_to_handle_at(directory, name, room, _ANY_MOUNT, 0 if name else AT_EMPTY_PATH))
    raw = room.raw
    return raw[: 8 + raw[0]]  # little-endian, and below 256


_HANDLES_WITH_INODE: Final = {1: "<I", 0x81: "<Q"}
"""Where the number stands in a handle, by its type: ext4's (FILEID_INO32_GEN) and that of XFS."""


def inode_of(handle: bytes) -> int | None:
    """The inode number in a handle of `handle_of`; None where its kind does not tell."""
    if len(handle) < 16:
        return None
    layout = _HANDLES_WITH_INODE.get(struct.unpack_from("<i", handle, 4)[0])
    return struct.unpack_from(layout, handle, 8)[0] if layout else None


def open_handle(mount: int, handle: bytes, flags: int) -> int:
    """Open by `handle_of`; `mount` is a descriptor (not O_PATH) on that file system. ESTALE: it is gone."""
    return _check(_libc.open_by_handle_at(mount, handle, flags | os.O_CLOEXEC))


def may_open_handles(mount: int) -> bool:
    """Whether this process may open by handle: root may, root of a user namespace may not."""
    try:
        os.close(open_handle(mount, handle_of(mount, b""), os.O_PATH))
    except OSError as fault:
        if fault.errno in (errno.EPERM, errno.EOPNOTSUPP):
            return False
        raise
    return True


_DIRENT = struct.Struct("<QqHB")
_GETDENTS64: Final = {"x86_64": 217, "aarch64": 61}.get(platform.machine(), 217)


def read_directory(fd: int, offset: int, size: int) -> list[tuple[int, int, int, bytes]]:
    """Entries from a directory position on: (inode, position of the next, type, name); [] at the end."""
    os.lseek(fd, offset, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(size)
    filled = _check(_libc.syscall(_GETDENTS64, fd, buffer, size))
    raw = buffer.raw[:filled]
    entries = []
    at = 0
    while at < filled:
        inode, position, length, kind = _DIRENT.unpack_from(raw, at)
        end = raw.index(b"\0", at + 19)
        entries.append((inode, position, kind, raw[at + 19 : end]))
        at += length
    return entries


# --- what a thread or process is allowed -------------------------------------------------------------------

_CAP_SYS_RESOURCE: Final = 24
_CAPABILITY_HEADER: Final = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread
_SETFSUID: Final = {"x86_64": 122, "aarch64": 151}.get(platform.machine(), 122)
_SETFSGID: Final = {"x86_64": 123, "aarch64": 152}.get(platform.machine(), 123)


def become_for_files(uid: int, gid: int) -> None:
    """This thread's file accesses count as this user's: reserved blocks and quotas bind as for him."""
    if uid:
        _libc.syscall(_SETFSGID, gid)
        _libc.syscall(_SETFSUID, uid)
    else:
        _libc.syscall(_SETFSUID, uid)
        _libc.syscall(_SETFSGID, gid)


def _take_back_capabilities() -> None:
    """Those over files, which the kernel takes from a thread that becomes another user for files."""
    words = _capabilities()
    words[0], words[3] = words[1], words[4]  # what is in effect, by what is permitted
    _set_capabilities(words)


def _capabilities() -> list[int]:
    """This thread's: in effect, permitted, inheritable; then the same of the numbers from 32 on."""
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(_CAPABILITY_HEADER, data))
    return list(struct.unpack("<6I", data.raw))


def _set_capabilities(words: list[int]) -> None:
    _check(_libc.capset(_CAPABILITY_HEADER, struct.pack("<6I", *words)))


class Acting:
    """While entered, what this thread makes belongs to this user and counts as his: blocks, inodes, quotas.

    Whether he may was asked by the kernel above, which knows his groups: no right is missing here.
    """

    __slots__ = ("_gid", "_uid")

    def __init__(self, uid: int, gid: int) -> None:
        self._uid, self._gid = uid, gid

    def __enter__(self) -> None:
        if self._uid or self._gid:
            become_for_files(self._uid, self._gid)
            if self._uid:
                _take_back_capabilities()

    def __exit__(self, *_: object) -> None:
        if self._uid or self._gid:
            become_for_files(0, 0)


def own_umask() -> None:
    """From now on this thread's umask and working directory are its own (unshare CLONE_FS)."""
    _check(_libc.unshare(0x200))


def drop_resource_capability() -> None:
    """This thread and those it starts no longer write past reserved blocks and quotas."""
    words = _capabilities()
    for at in (0, 1):  # permitted neither, so that no thread takes it back
        words[at] &= ~(1 << _CAP_SYS_RESOURCE)
    _set_capabilities(words)


def raise_descriptor_limit() -> None:
    """Open as many descriptors as the system lets a process: an application's open files are ours too.

    Before `drop_resource_capability`. 1,024, which service managers give, is a few tables of a database.
    """
    with open("/proc/sys/fs/nr_open") as file:
        most = int(file.read())
    for wanted in (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        except (ValueError, PermissionError):
            continue  # without the capability the limit we were given is the most


def die_with_parent() -> None:
    """This process gets SIGKILL when its parent ends (prctl PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(1, 9, 0, 0, 0))


def prefer_survival() -> None:
    """Best effort: the out-of-memory killer looks elsewhere, and reclaim does not wait for our own mount."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError:
        pass  # needs CAP_SYS_RESOURCE; without it we are as killable as others
    _libc.prctl(57, 1, 0, 0, 0)  # PR_SET_IO_FLUSHER; EPERM without CAP_SYS_RESOURCE
