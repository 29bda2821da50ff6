"""`python -m tests.bench NAME [--quick] [--json FILE] [--only ROW]...`: measure, with the bounds beside."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.bench import cloud, farm, mirror
from tests.bench.data import UnfitDisk, refuse_memory
from tests.bench.mirror import Bench, Measurement
from tests.bench.rig import Rig
from tests.bench.rounds import Sleeper
from tests.bench.rows import BY_NAME, CLOUD, FARM, MIRROR, Spec, line, missing, write
from tests.support.disks import enter_private_mounts

BENCHES: dict[str, tuple[tuple[Measurement, ...], tuple[Spec, ...]]] = {
    "mirror": (mirror.ALL, MIRROR),
    "farm": (farm.ALL, FARM),
    "cloud": (cloud.ALL, CLOUD),
}
PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "mkfs.ext4": "e2fsprogs",
    "gcc": "gcc",
    "glusterd": "glusterfs-server",
    "keepalived": "keepalived",
    "psql": "postgresql",
    "tar": "tar",
    "rsync": "rsync",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "iperf3": "iperf3",
}


def main() -> int:
    """0 when every row was measured, whatever came out; 1 when one is missing; 2 when it cannot run here."""
    words = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    words.add_argument("name", choices=sorted(BENCHES), help="what to measure")
    words.add_argument("--quick", action="store_true", help="fewer and shorter rounds: within 5 minutes")
    words.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    words.add_argument(
        "--only", action="append", choices=sorted(BY_NAME), metavar="ROW", help="this row; again for more"
    )
    words.add_argument("--keep", action="store_true", help="keep logs and disks, and say where")
    words.add_argument(
        "--at", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure on"
    )
    asked = words.parse_args()
    refusal = _cannot_run(asked.at)
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    specs = BENCHES[asked.name][1]
    wanted = frozenset(asked.only or (spec.name for spec in specs))
    try:
        return _measure(asked, wanted)
    except KeyboardInterrupt:
        print("interrupted; everything was cleaned up", file=sys.stderr)
        return 130


def _measure(asked: argparse.Namespace, wanted: frozenset[str]) -> int:
    begin = time.monotonic()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    enter_private_mounts()
    work = Path(tempfile.mkdtemp(prefix="hafarm-bench-", dir=asked.at))
    work.chmod(0o755)  # PostgreSQL's user passes through

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    sleeper = Sleeper()
    bench = Bench(work, asked.quick, tell, Rig(work, tell, asked.keep), sleeper)
    _introduce(tell, asked.quick, sleeper)
    try:
        for measurement in BENCHES[asked.name][0]:
            names = wanted & set(measurement.names)
            if not names:
                continue
            tell(f"measuring {', '.join(name for name in measurement.names if name in names)}")
            try:
                for row in measurement.run(bench, names):
                    if row.name in names:
                        bench.rows.append(row)
                        print(line(row), flush=True)
            except Exception:  # one measurement that fails must not cost the others their rows
                tell(f"FAILED: {traceback.format_exc()}")
                bench.rig.drop()
    finally:
        sleeper.close()
        bench.rig.drop()
        if asked.keep:
            tell(f"logs and disks are kept in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
        if asked.json is not None:
            write(bench.rows, asked.json)
    return _summary(bench, [spec.name for spec in BENCHES[asked.name][1] if spec.name in wanted])


def _summary(bench: Bench, wanted: list[str]) -> int:
    print()
    for row in bench.rows:
        print(line(row))
    absent = missing(bench.rows, wanted)
    for name in absent:
        print(f"error: {name} was not measured", file=sys.stderr)
    return 1 if absent else 0


def _introduce(tell: object, quick: bool, sleeper: Sleeper) -> None:
    assert callable(tell)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    load = os.getloadavg()[0]
    tell(f"{os.cpu_count()} processors, {memory} GiB, Linux {platform.release()}, load average {load:.1f}")
    if load > 1:
        tell("WARNING: others use this machine too; figures will be worse and wider than they are")
    if quick:
        tell("--quick: few and short rounds; false_takeovers watches for half a minute instead of ten")
    for refused in sleeper.refused:
        tell(f"WARNING: {refused}: rounds in which the machine stood still may not be seen")


def _cannot_run(at: Path) -> str:
    """Why it cannot run here, with what to do; nothing when it can."""
    if os.geteuid() != 0:
        return "network namespaces and mounts need root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None]
    if absent:
        return f"missing on this machine: apt-get install -y --no-install-recommends {' '.join(absent)}"
    try:
        refuse_memory(at)
    except UnfitDisk as fault:
        return str(fault)
    return ""


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
