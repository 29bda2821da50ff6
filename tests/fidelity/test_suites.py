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
    *("access", "acl", "chdir", "chmod", "chown", "close", "copy-file", "dentry", "dir", "dup", "eventfd"),
    *("fallocate", "fault", "fcntl", "filename", "flock", "fpunch", "getdent", "hdd", "inotify", "io"),
    *("iomix", "link", "locka", "lockf", "lockmix", "lockofd", "mknod", "mmap", "msync", "open", "pipe"),
    *("readahead", "rename", "seek", "sendfile", "splice", "symlink", "touch", "unlink", "utime", "xattr"),
)
"""stress-ng's that work on files and can be verified; what is left out asks for what no FUSE file system is
asked (docs/limits.md), or for memory and processors only."""
OPERATIONS = 40
"""Of each stressor: what it does is written for millions, and a mistake in answers shows in the first few."""
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
bsrange=1-64k
bs_unaligned=1
"""


@pytest.fixture(scope="module", params=sorted(DISKS))
def hurt(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, rig(Path(folder), request.param) as made:
        yield made


def run(*words: str | Path, place: Path) -> str:
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, timeout=240, env={**os.environ, "HOME": str(place)}
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_stress_ng_verifies_what_it_wrote(hurt: Rig) -> None:
    with hurt.case() as (_, mounted):
        stressors = [
            word for name in STRESSORS for word in (f"--{name}", "1", f"--{name}-ops", str(OPERATIONS))
        ]
        log = run(
            *("stress-ng", "--sequential", "0", "--verify", "--no-rand-seed", "--temp-path", mounted),
            *("--timeout", "60", *stressors),
            place=mounted,
        )
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
