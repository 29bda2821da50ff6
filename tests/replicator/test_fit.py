"""Which directories a mirror may be kept on: what cannot keep its promises is refused."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cli.machine import Finding, findings, surveyed
from orchestrator.model.config import ClusterConfig, DirectoryConfig, MirrorConfig
from orchestrator.model.names import ClusterName, ModuleName, NodeName
from orchestrator.replicator.keeper import DirectoryUnfit, _open_fit
from tests.support.disks import enter_private_mounts, ext4


def why_not(path: str) -> str:
    """Why it is refused; nothing when it is taken."""
    try:
        for fd in _open_fit(path, Path("/nowhere")):
            os.close(fd)
    except DirectoryUnfit as fault:
        return f"{fault.code}: {fault}"
    return ""


def checked(path: str) -> list[Finding]:
    """What `hafarm config check` says of this directory."""
    module = MirrorConfig(ModuleName("orders"), (NodeName("paris"),), (DirectoryConfig(path),))
    config = ClusterConfig(ClusterName("shop"), (), (module,))
    return [one for one in findings(config, "paris", surveyed(config, "paris")) if one.what == path]


@contextmanager
def mounted(at: Path, *words: str) -> Iterator[Path]:
    enter_private_mounts()
    at.mkdir()
    subprocess.run(["mount", *words, str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_a_directory_on_ext4_is_taken(work: Path) -> None:
    with ext4(work / "image", work / "disk") as disk:
        (disk / "files").mkdir()
        assert why_not(str(disk / "files")) == ""


def test_a_read_only_disk_is_refused(work: Path) -> None:
    with ext4(work / "image", work / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "read-only" in why_not(str(disk))


def test_a_file_system_that_forgets_is_refused_here_and_by_config_check(work: Path) -> None:
    with mounted(work / "ram", "-t", "tmpfs", "tmpfs") as ram:
        assert "tmpfs: it forgets everything when the current fails" in why_not(str(ram))
        assert [finding.verdict for finding in checked(str(ram))] == ["fail"]


def test_an_overlay_is_refused_here_and_by_config_check(work: Path) -> None:
    with ext4(work / "image", work / "disk") as disk:
        for name in ("lower", "upper", "inner"):
            (disk / name).mkdir()
        layers = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/inner"
        with mounted(work / "over", "-t", "overlay", "overlay", "-o", layers) as over:
            assert "overlay" in why_not(str(over))
            assert [finding.verdict for finding in checked(str(over))] == ["fail"]


def test_what_shows_the_kernel_is_refused() -> None:
    assert "proc: it shows the kernel" in why_not("/proc/sys")
    assert [finding.verdict for finding in checked("/proc/sys")] == ["fail"]


@pytest.mark.parametrize("make", ["nothing", "a file", "a link"])
def test_what_is_no_directory_of_its_own_is_refused(work: Path, make: str) -> None:
    place = work / "place"
    if make == "a file":
        place.write_text("x")
    elif make == "a link":
        (work / "elsewhere").mkdir()
        place.symlink_to(work / "elsewhere")
    words = {
        "nothing": "No such file",
        "a file": "Not a directory",
        "a link": f"it leads to {work}/elsewhere",
    }
    told = why_not(str(place))
    assert told.startswith("HF4005: ")
    assert words[make] in told
    assert "fail" in [finding.verdict for finding in checked(str(place))]


def test_a_file_with_a_name_outside_is_named_by_config_check(work: Path) -> None:
    with ext4(work / "image", work / "disk") as disk:
        (disk / "files/deep").mkdir(parents=True)
        (disk / "files/inside").write_bytes(b"")
        os.link(disk / "files/inside", disk / "files/deep/again")
        assert [finding.verdict for finding in checked(str(disk / "files"))] == ["pass", "pass"]
        (disk / "elsewhere").write_bytes(b"")
        os.link(disk / "elsewhere", disk / "files/deep/shared")
        found = checked(str(disk / "files"))
        assert [finding.verdict for finding in found] == ["pass", "pass", "fail"]
        assert "files/deep/shared: has a hard link outside: replace it by a copy" in found[2].text
