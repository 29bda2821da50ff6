"""What applications do to a directory, each as one figure: more is better, in the unit its docstring tells.

workloads.py NAME DIRECTORY MEASURE      prints the figure
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FILE_BYTES = 64 << 20  # larger than any device cache we met, small enough to be filled before each round
BLOCK_BYTES = 4096
CHUNK_BYTES = 1 << 20
BLOCK = b"x" * BLOCK_BYTES

Workload = Callable[[Path, float], float]
"""A directory to work in, and how much to do: 1.0 is the full measure, `--quick` gives less."""


def fsync4k(jobs: int) -> Workload:
    """Random 4 KiB writes, each followed by fsync: operations per second over all jobs."""

    def work(place: Path, measure: float) -> float:
        seconds = max(1.0, 4 * measure)
        barrier = multiprocessing.Barrier(jobs)
        results: multiprocessing.Queue[int] = multiprocessing.Queue()
        crew = [
            multiprocessing.Process(
                target=_fsync_job, args=(place / f"job-{job}", job, jobs, seconds, barrier, results)
            )
            for job in range(jobs)
        ]
        for process in crew:
            process.start()
        done = sum(results.get(timeout=300) for _ in crew)
        for process in crew:
            process.join()
        return done / seconds

    return work


def _fsync_job(name: Path, seed: int, jobs: int, seconds: float, barrier: object, results: object) -> None:
    chance = random.Random(seed)
    # What many fill together before each round is no more than what four do.
    size = FILE_BYTES if jobs <= 4 else 4 * FILE_BYTES // jobs
    fd = _filled(name, size)
    barrier.wait()  # type: ignore[attr-defined]
    done = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _synced_write(fd, chance, size)
        done += 1
    os.close(fd)
    results.put(done)  # type: ignore[attr-defined]


def _filled(name: Path, size: int) -> int:
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    for offset in range(0, size, CHUNK_BYTES):
        os.pwrite(fd, bytes(CHUNK_BYTES), offset)
    os.fsync(fd)
    return fd


def _synced_write(fd: int, chance: random.Random, size: int) -> None:
    os.pwrite(fd, BLOCK, chance.randrange(size // BLOCK_BYTES) * BLOCK_BYTES)
    os.fsync(fd)


def latency(percentile: int) -> Workload:
    """Random 4 KiB writes, each followed by fsync, by one job: so many microseconds one of them takes."""

    def work(place: Path, measure: float) -> float:
        chance = random.Random(percentile)
        fd = _filled(place / "job-0", FILE_BYTES)
        times: list[float] = []
        end = time.monotonic() + max(1.0, 4 * measure)
        while (begin := time.monotonic()) < end:
            _synced_write(fd, chance, FILE_BYTES)
            times.append(time.monotonic() - begin)
        os.close(fd)
        return 1e6 * sorted(times)[len(times) * percentile // 100]

    return work


def synced(place: Path, measure: float) -> float:
    """The same writes to the file that `latency` has left, which is filled: how many there were."""
    chance = random.Random(1)
    fd = os.open(place / "job-0", os.O_RDWR)
    done = 0
    end = time.monotonic() + max(1.0, 4 * measure)
    while time.monotonic() < end:
        _synced_write(fd, chance, FILE_BYTES)
        done += 1
    os.close(fd)
    return done


def seqwrite(place: Path, measure: float) -> float:
    """1 MiB blocks and one final fsync: MiB per second."""
    mebibytes = max(64, int(512 * measure))
    data = os.urandom(CHUNK_BYTES)
    start = time.monotonic()
    with (place / "sequential").open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(data)
        os.fsync(file.fileno())
    return mebibytes / (time.monotonic() - start)


def _big_file(place: Path) -> Path:
    name = place / "big"
    if not name.exists():
        with name.open("wb", buffering=0) as file:
            for _ in range(256):
                file.write(os.urandom(CHUNK_BYTES))
            os.fsync(file.fileno())
    return name


def _read(name: Path) -> float:
    start = time.monotonic()
    total = 0
    with name.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK_BYTES)
        while count := file.readinto(buffer):
            total += count
    return total / CHUNK_BYTES / (time.monotonic() - start)


def warmread(place: Path, measure: float) -> float:
    """A file that was just read: MiB per second."""
    name = _big_file(place)
    _read(name)
    return max(_read(name) for _ in range(max(1, int(3 * measure))))


def coldread(place: Path, measure: float) -> float:
    """The file system's own cache of this file dropped, the layer below still warm: MiB per second."""
    name = _big_file(place)
    fd = os.open(name, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return _read(name)


def _new_folder(place: Path) -> Path:
    """Beside those of former rounds, which stay to the end of the measurement.

    ext4 passes over each inode that was deleted in the last minutes whenever it looks for a free one: to take
    the former ones away first would measure that, on every contender's disk.
    """
    return Path(tempfile.mkdtemp(prefix="round-", dir=place))


def create(place: Path, measure: float) -> float:
    """Create a file, write 1 KB, close: files per second."""
    count = max(500, int(5000 * measure))
    folder = _new_folder(place)
    data = b"y" * 1000
    start = time.monotonic()
    for number in range(count):
        with (folder / f"{number:06d}").open("wb", buffering=0) as file:
            file.write(data)
    return count / (time.monotonic() - start)


def _archive(folders: int) -> bytes:
    """A source tree of twenty files a folder, the same each time."""
    chance = random.Random(11)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for folder in range(folders):
            entry = tarfile.TarInfo(f"tree/package{folder:03d}")
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o755
            archive.addfile(entry)
            for number in range(20):
                data = chance.randbytes(chance.randrange(200, 6000))
                entry = tarfile.TarInfo(f"tree/package{folder:03d}/module{number:02d}.c")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def untar(place: Path, measure: float) -> float:
    """Unpack a source tree of 150 folders with 20 files each: entries per second."""
    folders = max(30, int(150 * measure))
    folder = _new_folder(place)
    archive = _archive(folders)
    start = time.monotonic()
    subprocess.run(["tar", "-x", "-f", "-", "-C", folder], input=archive, check=True)
    return 21 * folders / (time.monotonic() - start)


def sqlite_commits(place: Path, measure: float) -> float:
    """WAL, synchronous FULL, one row a commit: commits per second."""
    for name in place.glob("rows.db*"):
        name.unlink()
    base = sqlite3.connect(place / "rows.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")
    seconds = max(1.0, 4 * measure)
    done = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        base.execute("INSERT INTO rows (text) VALUES ('a row of some forty characters, no more')")
        done += 1
    base.close()
    return done / seconds


def pgbench(place: Path, measure: float) -> float:
    """PostgreSQL's own benchmark, 4 clients, everything durable: transactions per second."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    data, port = place / "pg", 54329
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    sockets = Path(f"/tmp/hafarm-bench-{os.getpid()}")
    sockets.mkdir(exist_ok=True)
    shutil.chown(sockets, "postgres")

    def run(*words: str | Path) -> str:
        argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *map(str, words)]
        return subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/").stdout

    run(binaries / "initdb", "-D", data, "-A", "trust", "--no-instructions")
    options = f"-p {port} -k {sockets} -c listen_addresses="
    run(binaries / "pg_ctl", "-D", data, "-w", "-l", sockets / "log", "-o", options, "start")
    try:
        at = ["-h", sockets, "-p", str(port), "postgres"]
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert run("psql", "-Atc", f"SHOW {setting}", *at).strip() == "on"
        run(binaries / "pgbench", "-i", "-s", "3", "-q", *at)
        out = run(binaries / "pgbench", "-c", "4", "-j", "2", "-T", str(max(3, int(10 * measure))), "-n", *at)
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
        shutil.rmtree(sockets, ignore_errors=True)
    return float(next(line.split()[2] for line in out.splitlines() if line.startswith("tps")))


ALL: dict[str, Workload] = {
    "fsync4k_1": fsync4k(1),
    "fsync4k_4": fsync4k(4),
    "fsync4k_16": fsync4k(16),
    "synced": synced,
    "latency_p50": latency(50),
    "latency_p99": latency(99),
    "seqwrite": seqwrite,
    "warmread": warmread,
    "coldread": coldread,
    "create": create,
    "untar": untar,
    "sqlite": sqlite_commits,
    "pgbench": pgbench,
}

if __name__ == "__main__":
    print(f"{ALL[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3])):.4f}")
