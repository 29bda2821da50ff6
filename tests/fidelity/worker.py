"""One process of an application, as one user: does to a tree what it is told, and says what came of it."""

from __future__ import annotations

import ast
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import stat
import sys
from collections.abc import Callable
from typing import Any

SET_TIMES = (0, 1, 999_999_999, 1_234_567_890_123_456_789, -1_000_000_001, 4_000_000_000_000_000_001)
"""What times are set to, in nanoseconds; any other time is the clock's, and no two runs share it."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_RENAMEAT2 = 316 if os.uname().machine == "x86_64" else 276
_AT_FDCWD = -100

Result = tuple[str, Any]


def main() -> None:
    """`python -m tests.fidelity.worker DIRECTORY UID GID...`: answers each line of its standard input."""
    os.chdir(sys.argv[1])
    uid, gid, *others = (int(word) for word in sys.argv[2:])
    os.setgroups(others)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    worker = Worker()
    for line in sys.stdin:
        verb, *arguments = ast.literal_eval(line)
        print(repr(worker.do(verb, arguments)), flush=True)


class Worker:
    """Open files by slot; every operation is answered with a value or an error number."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._home = os.open(".", os.O_PATH | os.O_CLOEXEC)

    def do(self, verb: str, arguments: list[Any]) -> Result:
        act: Callable[..., Any] = getattr(self, f"_{verb}")
        try:
            return "ok", act(*arguments)
        except OSError as fault:
            return "error", errno.errorcode.get(fault.errno or 0, str(fault))

    # --- one case after the other -----------------------------------------------------------------------

    def _enter(self, path: bytes) -> None:
        os.chdir(self._home)
        os.chdir(path)
        os.umask(0o022)

    def _leave(self) -> None:
        for slot in list(self._files):
            self._close(slot)
        os.chdir(self._home)

    # --- open files -------------------------------------------------------------------------------------

    def _fd(self, slot: int) -> int:
        if slot not in self._files:
            raise OSError(errno.EBADF, "nothing is open there")
        return self._files[slot]

    def _open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        # Nobody waits at the other end of a fifo, and no device answers.
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        if slot in self._files:
            os.close(self._files[slot])
        self._files[slot] = fd

    def _close(self, slot: int) -> None:
        fd = self._fd(slot)
        del self._files[slot]
        os.close(fd)

    def _pread(self, slot: int, offset: int, size: int) -> object:
        return _short(os.pread(self._fd(slot), size, offset))

    def _pwrite(self, slot: int, offset: int, size: int, seed: int) -> int:
        return os.pwrite(self._fd(slot), _bytes(size, seed), offset)

    def _write(self, slot: int, size: int, seed: int) -> int:
        return os.write(self._fd(slot), _bytes(size, seed))

    def _lseek(self, slot: int, offset: int, whence: int) -> int:
        fd = self._fd(slot)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EISDIR, "positions in a directory are the file system's own")
        return os.lseek(fd, offset, whence)

    def _ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def _fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def _fdatasync(self, slot: int) -> None:
        os.fdatasync(self._fd(slot))

    def _fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        if _libc.fallocate(self._fd(slot), mode, offset, length):
            raise OSError(ctypes.get_errno(), "fallocate")

    def _copy_range(self, source: int, target: int, size: int, at: int, to: int) -> int:
        # How much is copied by one call is the kernel's choice: as programs do, until it is all.
        done = 0
        while done < size:
            count = os.copy_file_range(self._fd(source), self._fd(target), size - done, at + done, to + done)
            if not count:
                break
            done += count
        return done

    def _mmap_store(self, slot: int, offset: int, size: int, seed: int) -> None:
        fd = self._fd(slot)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size < offset + size:
            raise OSError(errno.EINVAL, "beyond the end")
        with mmap.mmap(fd, offset + size, mmap.MAP_SHARED) as mapped:
            mapped[offset : offset + size] = _bytes(size, seed)
            mapped.flush()

    def _fstat(self, slot: int) -> object:
        return _facts(os.fstat(self._fd(slot)))

    def _fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def _fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(slot), uid, gid)

    def _futimens(self, slot: int, atime: int, mtime: int) -> None:
        os.utime(self._fd(slot), ns=(atime, mtime))

    def _fsetxattr(self, slot: int, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(self._fd(slot), name, value, flags)

    def _fgetxattr(self, slot: int, name: bytes) -> object:
        return _short(os.getxattr(self._fd(slot), name))

    def _flock(self, slot: int, how: int) -> None:
        fcntl.flock(self._fd(slot), how | fcntl.LOCK_NB)

    def _lockf(self, slot: int, how: int, size: int, start: int) -> None:
        fcntl.lockf(self._fd(slot), how if how == fcntl.LOCK_UN else how | fcntl.LOCK_NB, size, start)

    def _tmpfile(self, slot: int, directory: bytes, flags: int, mode: int) -> None:
        self._open(slot, directory, os.O_TMPFILE | flags, mode)

    def _linkfd(self, slot: int, path: bytes) -> None:
        # An absolute name needs no directory; giving one makes Python say AT_SYMLINK_FOLLOW.
        source = b"/proc/self/fd/%d" % self._fd(slot)
        os.link(source, path, src_dir_fd=self._home, follow_symlinks=True)

    # --- names ------------------------------------------------------------------------------------------

    def _truncate(self, path: bytes, size: int) -> None:
        os.truncate(path, size)

    def _mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(path, mode)

    def _rmdir(self, path: bytes) -> None:
        os.rmdir(path)

    def _unlink(self, path: bytes) -> None:
        os.unlink(path)

    def _rename(self, old: bytes, new: bytes, flags: int) -> None:
        if _libc.syscall(_RENAMEAT2, _AT_FDCWD, old, _AT_FDCWD, new, ctypes.c_uint(flags)):
            raise OSError(ctypes.get_errno(), "renameat2")

    def _link(self, old: bytes, new: bytes) -> None:
        os.link(old, new, follow_symlinks=False)

    def _symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path)

    def _readlink(self, path: bytes) -> object:
        return _short(os.readlink(path))

    def _mknod(self, path: bytes, mode: int, device: int) -> None:
        os.mknod(path, mode, device)

    def _chmod(self, path: bytes, mode: int) -> None:
        os.chmod(path, mode)

    def _lchown(self, path: bytes, uid: int, gid: int) -> None:
        os.lchown(path, uid, gid)

    def _utimens(self, path: bytes, atime: int, mtime: int) -> None:
        os.utime(path, ns=(atime, mtime), follow_symlinks=False)

    def _touch(self, path: bytes) -> None:
        os.utime(path)

    def _stat(self, path: bytes) -> object:
        return _facts(os.stat(path))

    def _lstat(self, path: bytes) -> object:
        return _facts(os.lstat(path))

    def _listdir(self, path: bytes) -> object:
        return sorted(os.listdir(path))

    def _access(self, path: bytes, how: int) -> bool:
        return os.access(path, how)

    def _setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=False)

    def _getxattr(self, path: bytes, name: bytes) -> object:
        return _short(os.getxattr(path, name, follow_symlinks=False))

    def _listxattr(self, path: bytes) -> object:
        return sorted(os.listxattr(path, follow_symlinks=False))

    def _removexattr(self, path: bytes, name: bytes) -> None:
        os.removexattr(path, name, follow_symlinks=False)

    def _umask(self, mask: int) -> None:
        os.umask(mask)


def _bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _short(value: bytes) -> object:
    """Itself, or its digest when nobody would read all of it."""
    return value if len(value) <= 64 else (len(value), hashlib.blake2b(value, digest_size=8).hexdigest())


def _facts(status: os.stat_result) -> dict[str, object]:
    """What must be equal on two file systems of one kind; a directory's size is its own business."""
    kind = stat.S_IFMT(status.st_mode)
    return {
        "mode": oct(status.st_mode),
        "links": status.st_nlink,
        "owner": (status.st_uid, status.st_gid),
        "size": status.st_size if kind in (stat.S_IFREG, stat.S_IFLNK) else "-",
        "device": status.st_rdev,
        "modified": status.st_mtime_ns if status.st_mtime_ns in SET_TIMES else "by the clock",
    }


if __name__ == "__main__":
    main()
