"""Is this machine ready for what hafarm.yaml asks of it? Looks only, changes nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.cli.machine_farms import farm_findings
from orchestrator.cli.survey import LOOK_S, Survey, survey
from orchestrator.cli.tell import size
from orchestrator.model.config import (
    UNFIT_FILE_SYSTEMS,
    ClusterConfig,
    DirectoryConfig,
    FarmConfig,
    MirrorConfig,
    WitnessConfig,
)
from orchestrator.model.tested import FILES_TESTED, first_copy_s

FILE_SYSTEMS: Final = ("ext4", "xfs")
"""Tested with power cuts; others are served too, at the operator's risk."""
SERVED: Final = "fuse.hafarm"
PROGRAMS: Final = {"nft": "nftables", "ip": "iproute2"}
"""Program: the Debian package that has it."""


LIBRARIES: Final = {
    "s3": ("boto3", "aws"),
    "gcs": ("google.auth", "gcp"),
    "blob": ("azure.identity", "azure"),
}
"""Kind of register: the library, and the extra that has it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Literal["pass", "warn", "fail"]
    what: str
    text: str


def findings(config: ClusterConfig, node: str, surveys: Mapping[str, Survey]) -> list[Finding]:
    """Everything that was looked at, in the file's order. `surveys`: by path, as `surveyed` made them."""
    found = [*_programs(), *([_fuse()] if config.mirrors else []), _right(), *_register(config.witness)]
    for module in config.mirrors:
        if node not in module.nodes:
            continue
        for directory in module.replicate:
            found += _directory(directory)
            if directory.path in surveys:
                found += _contents(module, surveys[directory.path])
        found += _application(module)
    for farm in config.farms:
        if node in farm.nodes:
            seen = farm_findings(config, farm, node)
            found += [Finding("pass" if good else "fail", what, text) for good, what, text in seen]
            found += _application(farm)
    return found


def surveyed(config: ClusterConfig, node: str, look_s: float = LOOK_S) -> dict[str, Survey]:
    """By path, what is in each replicated directory that can be read."""
    found: dict[str, Survey] = {}
    for module in config.mirrors:
        for directory in module.replicate if node in module.nodes else ():
            if not _is_fit(directory.path):
                continue
            # What cannot be read is told by whoever looks at the directory itself.
            with contextlib.suppress(OSError):
                found[directory.path] = survey(directory, look_s)
    return found


def _is_fit(path: str) -> bool:
    """A directory whose files could be replicated, or are."""
    return (
        os.path.realpath(path) == path
        and os.path.isdir(path)
        and _file_system(path) not in UNFIT_FILE_SYSTEMS
    )


def expected_s(module: MirrorConfig, seen: Survey) -> float:
    """About how long it takes to fill another node with what was seen."""
    return first_copy_s(seen.files + seen.directories, seen.bytes, module.resync_rate)


def _programs() -> Iterator[Finding]:
    for name, package in PROGRAMS.items():
        where = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if where:
            yield Finding("pass", name, where)
        else:
            yield Finding("fail", name, f"not found: install {package}")


def _fuse() -> Finding:
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return Finding("pass", "/dev/fuse", "can be opened")
    return Finding("fail", "/dev/fuse", "cannot be opened: modprobe fuse, and be root")


def _right() -> Finding:
    if os.geteuid() == 0:
        return Finding("pass", "root", "is what the agent needs")
    return Finding("warn", "root", "you are not: the agent must be")


def _register(witness: WitnessConfig) -> Iterator[Finding]:
    """What this machine needs to ask it; `hafarm witness test` asks."""
    if witness.etcd is not None:
        for file in (witness.etcd.ca, witness.etcd.cert, witness.etcd.key, witness.etcd.password_file):
            if file and not os.access(file, os.R_OK):
                yield Finding("fail", file, "cannot be read, and the register (etcd) needs it")
            elif file:
                yield Finding("pass", file, "can be read")
    if witness.bucket is not None:
        library, extra = LIBRARIES[witness.bucket.kind]
        with contextlib.suppress(ImportError):
            if importlib.util.find_spec(library) is not None:
                yield Finding("pass", library, f"is installed, for {witness.bucket.where}")
                return
        text = f"is not installed, and {witness.bucket.where} needs it: pip install 'hafarm[{extra}]'"
        yield Finding("fail", library, text)


def _directory(directory: DirectoryConfig) -> Iterator[Finding]:
    path = directory.path
    if os.path.islink(path) or os.path.realpath(path) != path:
        yield Finding("fail", path, f"leads elsewhere ({os.path.realpath(path)}): name the real directory")
        return
    if not os.path.isdir(path):
        yield Finding("fail", path, "is no directory: make it, empty or with the files to replicate")
        return
    kind = _file_system(path)
    if kind == SERVED:
        yield Finding("pass", path, "is served by hafarm now")
        return
    if kind in UNFIT_FILE_SYSTEMS:
        yield Finding("fail", path, f"on {kind}: {UNFIT_FILE_SYSTEMS[kind]}")
        return
    verdict: Literal["pass", "warn"] = "pass" if kind in FILE_SYSTEMS else "warn"
    advice = "" if verdict == "pass" else f": tested are {' and '.join(FILE_SYSTEMS)}"
    yield Finding(verdict, path, f"on {kind}{advice}")
    if directory.must_exist and not os.path.lexists(os.path.join(path, directory.must_exist)):
        text = (
            f"has no {directory.must_exist}: once it had these files, the module does not start here (HF4021)"
        )
        yield Finding("warn", path, text)
    for inner, what in _in_the_way(path):
        yield Finding("fail", path, f"{inner} is {what}: move it out of the replicated directory")


def _contents(module: MirrorConfig, seen: Survey) -> Iterator[Finding]:
    """How much there is, and what of it hafarm cannot keep."""
    least = "at least " if seen.stopped else ""
    rest = f"; stopped after {seen.seconds:.0f} s, there is more" if seen.stopped else ""
    unread = f"; {seen.unread} directories could not be read" if seen.unread else ""
    yield Finding(
        "warn" if seen.stopped or seen.unread else "pass",
        seen.path,
        f"{least}{seen.files} files and {size(seen.bytes)} in {seen.directories} directories; a first resync "
        f"takes {least or 'about '}{lasting(expected_s(module, seen))}{rest}{unread}",
    )
    if seen.files > FILES_TESTED:
        text = f"{seen.files} files: up to {FILES_TESTED} were tested (docs/limits.md)"
        yield Finding("warn", seen.path, text)
    if _file_system(seen.path) == SERVED:
        return  # names that were taken away while open are hidden there
    if seen.outside:
        text = f"{_some(seen.outside)}: has a hard link outside: replace it by a copy"
        yield Finding("fail", seen.path, text)
    if seen.across:
        text = f"{_some(seen.across)}: has a hard link in what is not replicated: replace it by a copy"
        yield Finding("fail", seen.path, text)


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def lasting(seconds: float) -> str:
    """A time as people say it."""
    for unit, least in (("h", 3600), ("min", 60)):
        if seconds >= 2 * least:
            return f"{seconds / least:.0f} {unit}"
    return f"{seconds:.0f} s"


def _mounts() -> list[tuple[str, str]]:
    """Mount point and file system of every mount, later ones last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        found.append((_plain(left.split()[4]), right.split()[0]))
    return found


def _plain(text: str) -> str:
    """The kernel writes a space as \\040."""
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text


def _file_system(path: str) -> str:
    """Of the deepest mount that holds the path, the last one where several lie over each other."""
    holding = [
        (len(point), index, kind) for index, (point, kind) in enumerate(_mounts()) if _holds(point, path)
    ]
    return max(holding)[2] if holding else "an unknown file system"


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _in_the_way(path: str) -> Iterator[tuple[str, str]]:
    """What must not lie in a replicated directory: other mounts, swap files, loop images in use."""
    for point, kind in _mounts():
        if point != path and _holds(path, point):
            yield point, f"a mount of its own ({kind})"
    for line in Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]:
        file = _plain(line.split()[0])
        if _holds(path, file):
            yield file, "a swap file in use"
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = backing.read_text(encoding="utf-8").rstrip("\n")
        except OSError:
            continue  # detached while we looked
        if _holds(path, file):
            yield file, f"the image of /dev/{backing.parts[3]}"


def _application(module: MirrorConfig | FarmConfig) -> Iterator[Finding]:
    run = module.run
    if run.user:
        try:
            pwd.getpwnam(run.user)
            yield Finding("pass", f"{module.name}: user {run.user}", "exists")
        except KeyError:
            yield Finding("fail", f"{module.name}: user {run.user}", "does not exist on this machine")
    if run.command:
        yield _runnable(module.name, run.command[0], module)
    if run.scripts:
        where = "both" if isinstance(module, FarmConfig) else "prim"
        for script in (f"start_{where}", f"stop_{where}"):
            yield _runnable(module.name, os.path.join(run.scripts, script), module)


def _runnable(name: str, program: str, module: MirrorConfig | FarmConfig) -> Finding:
    what = f"{name}: {program}"
    replicated = () if isinstance(module, FarmConfig) else module.replicate
    if any(_holds(directory.path, program) for directory in replicated) and not os.path.exists(program):
        return Finding("warn", what, "is not here yet: it will come with the replicated files")
    if shutil.which(program) is None:
        return Finding("fail", what, "cannot be executed on this machine")
    return Finding("pass", what, "can be executed")
