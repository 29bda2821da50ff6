"""The FUSE protocol's numbers and layouts (little-endian, as on x86-64 and arm64)."""

from __future__ import annotations

import os
from enum import IntEnum
from struct import Struct
from typing import Final


class Op(IntEnum):
    """Request codes."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    TMPFILE = 51


IN_HEADER: Final = Struct("<IIQQIIIHH")
OUT_HEADER: Final = Struct("<IiQ")
ATTR: Final = Struct("<6Q10I")
ENTRY: Final = Struct("<QQQQII")
ATTR_OUT: Final = Struct("<QII")
OPEN_OUT: Final = Struct("<QIi")
IO_IN: Final = Struct("<QQIIQII")
WRITE_OUT: Final = Struct("<II")
SETATTR_IN: Final = Struct("<IIQQQQQQIIIIIIII")
OPEN_IN: Final = Struct("<II")
CREATE_IN: Final = Struct("<IIII")
MKDIR_IN: Final = Struct("<II")
MKNOD_IN: Final = Struct("<IIII")
RENAME2_IN: Final = Struct("<QII")
ID_IN: Final = Struct("<Q")
FSYNC_IN: Final = Struct("<QII")
RELEASE_IN: Final = Struct("<QIIQ")
FALLOCATE_IN: Final = Struct("<QQQII")
LSEEK_IN: Final = Struct("<QQII")
XATTR_IN: Final = Struct("<II")
FORGET_ONE: Final = Struct("<QQ")
INVAL_INODE_OUT: Final = Struct("<Qqq")
STATFS_OUT: Final = Struct("<QQQQQIIII24x")
DIRENT: Final = Struct("<QQII")
INIT_IN: Final = Struct("<IIII")
INIT_OUT: Final = Struct("<IIIIHHIIHHIIH22x")

# INIT flags that we know how to keep; what is not here is never echoed.
ASYNC_READ, BIG_WRITES, DONT_MASK = 1 << 0, 1 << 5, 1 << 6
DO_READDIRPLUS, READDIRPLUS_AUTO, ASYNC_DIO, WRITEBACK_CACHE = 1 << 13, 1 << 14, 1 << 15, 1 << 16
PARALLEL_DIROPS, POSIX_ACL, MAX_PAGES, CACHE_SYMLINKS = 1 << 18, 1 << 20, 1 << 22, 1 << 23
HANDLE_KILLPRIV_V2, SETXATTR_EXT, INIT_EXT = 1 << 28, 1 << 29, 1 << 30
DIRECT_IO_ALLOW_MMAP = 1 << 4  # of flags2

FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1, 2
WRITE_KILL_PRIVILEGES = 1 << 2
SETXATTR_KILL_SGID = 1 << 0
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = 1, 2, 4, 8, 16, 32, 64
FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_CTIME, FATTR_KILL = 128, 256, 1 << 10, 1 << 11
FSYNC_DATA_ONLY = 1
NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_RESEND = 2, 3, 7
RESENT: Final = 1 << 63
"""Set in the unique number of a request that the kernel sends a second time."""

MAJOR, MINOR = 7, 45
MAX_WRITE: Final = 1 << 20  # the kernel's own bound: 256 pages
BUFFER_BYTES: Final = MAX_WRITE + 8192  # one request: data, headers, two names


_UNSIGNED: Final = 0xFFFFFFFFFFFFFFFF


def attr_bytes(status: os.stat_result, links: int) -> bytes:
    """The attributes of one object; `links` is the count to show."""
    mode, inode, _, _, uid, gid, size = status[:7]
    atime, atime_rest = divmod(status.st_atime_ns, 1_000_000_000)
    mtime, mtime_rest = divmod(status.st_mtime_ns, 1_000_000_000)
    ctime, ctime_rest = divmod(status.st_ctime_ns, 1_000_000_000)
    return ATTR.pack(
        inode,
        size,
        status.st_blocks,
        atime & _UNSIGNED,
        mtime & _UNSIGNED,
        ctime & _UNSIGNED,
        atime_rest,
        mtime_rest,
        ctime_rest,
        mode,
        links,
        uid,
        gid,
        _kernel_device(status.st_rdev) if status.st_rdev else 0,
        status.st_blksize,
        0,
    )


def _kernel_device(device: int) -> int:
    """A device number as the kernel's new_encode_dev packs it into 32 bits."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def device_of(packed: int) -> int:
    """The reverse of what `attr_bytes` does for a device."""
    return os.makedev((packed >> 8) & 0xFFF, (packed & 0xFF) | ((packed >> 12) & 0xFFF00))
