"""What others wrote to find faults in file systems finds none on a mount, and leaves both trees equal."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fidelity.rig import DISKS, Rig, rig

STRESSORS = (
    *("access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dup", "fallocate", "fcntl"),
    *("filename", "flock", "fpunch", "getdent", "inotify", "iomix", "link", "locka", "lockf", "lockofd"),
    *("mknod", "mmap", "msync", "readahead", "rename", "seek", "sendfile", "symlink", "touch", "utime"),
    *("xattr",),
)
"""stress-ng's that work on files and verify what they do; what is left out asks for what no FUSE file system
is asked (docs/limits.md), fills disks, or is about memory and processors only."""
SIZED = ("fallocate", "iomix", "mmap", "msync", "readahead")
"""Whose files would have gigabytes."""
LASTS_S = 5
"""All at once; a wrong answer shows in the first few operations, or where two get in each other's way."""
SIZE = "2G"
VERIFIED = """
[global]
directory={place}
size=8m
bs=4k
verify=crc32c
do_verify=1
verify_fatal=1
group_reporting
[plain]
rw=randwrite
[mapped]
stonewall
ioengine=mmap
rw=randwrite
[direct]
stonewall
direct=1
ioengine=psync
rw=randwrite
[durable]
stonewall
rw=randwrite
size=1m
fsync=8
numjobs=4
[growing]
stonewall
rw=write
bsrange=512-64k
"""


@pytest.fixture(scope="module", params=sorted(DISKS))
def hurt(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        rig(Path(folder), request.param, size=SIZE) as made,
    ):
        yield made


def run(*words: str | Path, place: Path) -> str:
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, timeout=240, env={**os.environ, "HOME": str(place)}
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_stress_ng_verifies_what_it_wrote(hurt: Rig) -> None:
    with hurt.case() as (_, mounted):
        stressors = [word for name in STRESSORS for word in (f"--{name}", "1")]
        stressors += [word for name in SIZED for word in (f"--{name}-bytes", "4m")]
        words = (
            "stress-ng",
            "--seek-size",
            "4m",
            "--verify",
            "--temp-path",
            mounted,
            "--timeout",
            str(LASTS_S),
            *stressors,
        )
        log = run(*words, place=mounted)
        assert "successful run completed" in log
        difference = hurt.compare(mounted.name, bare=False)
        assert difference is None, difference.text


def test_fio_reads_what_it_wrote(hurt: Rig) -> None:
    with hurt.case() as (_, mounted):
        job = mounted / "job"
        job.write_text(VERIFIED.format(place=mounted))
        run("fio", job, place=mounted)
        difference = hurt.compare(mounted.name, bare=False)
        assert difference is None, difference.text
