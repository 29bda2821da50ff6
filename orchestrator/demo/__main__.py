"""`hafarm demo`: a real application survives the loss of its node, before your eyes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from orchestrator.demo.cluster import Cluster
from orchestrator.demo.screen import Screen
from orchestrator.demo.story import Report, Story
from orchestrator.model.codes import shown

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """0 only if every check held; cleans up after itself, also on Ctrl-C."""
    words = argparse.ArgumentParser(prog="hafarm demo", description=__doc__)
    words.add_argument("--fast", action="store_true", help="no time for a person to look: under 45 s")
    words.add_argument("--json", metavar="FILE", help="write what was measured and checked")
    words.add_argument("--keep", action="store_true", help="keep logs and disks, and say where")
    asked = words.parse_args()
    refusal = _cannot_run()
    if refusal:
        print(shown("HF6010", refusal), file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        return _in_namespaces_of_our_own()
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    # Without images of their own the nodes replicate plain directories, which must not be on a tmpfs.
    work = Path(tempfile.mkdtemp(prefix="hafarm-demo-", dir=None if _can_mount_images() else "/var/tmp"))
    console = Console()
    try:
        report = _run(work, console, asked.fast)
    except KeyboardInterrupt:
        console.print("interrupted; everything was cleaned up")
        return 130
    except (subprocess.SubprocessError, OSError, RuntimeError) as fault:
        said = str(getattr(fault, "stderr", None) or "").strip()
        print(shown("HF6010", str(fault), why=said), file=sys.stderr)
        return 1
    finally:
        if asked.keep:
            console.print(f"logs and disks are kept in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    if asked.json:
        Path(asked.json).write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    _summary(console, report)
    return 0 if report.ok else 1


def _run(work: Path, console: Console, fast: bool) -> Report:
    images = _can_mount_images()
    cluster = Cluster(work, images=images)
    screen = Screen(console)
    story = Story(cluster, screen.tell, fast)
    try:
        disks = "disks that lose power" if images else "plain directories as disks"
        screen.tell(f"two nodes, a witness and clients in namespaces, with {disks}")
        cluster.up()
        screen.show(story, cluster, story.run)
    finally:
        # Once is enough: a second Ctrl-C would leave what the first one is taking away.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        cluster.down()
    return story.report


def _summary(console: Console, report: Report) -> None:
    outages = ", ".join(f"{name} {gap:.0f} ms" for name, gap in report.outage_ms.items())
    console.print(
        f"\nacknowledged {report.acknowledged}, lost {report.lost}   outage: {outages or 'none measured'}"
    )
    for check in report.checks:
        if not check.ok:
            console.print(f"[red]✘ {check.name}[/red]: {check.detail}", highlight=False)
    held = sum(check.ok for check in report.checks)
    console.print(f"{held} of {len(report.checks)} checks held")


def _cannot_run() -> str:
    """Why the demonstration cannot run here, with what to do; nothing when it can."""
    missing = [tool for tool in ("ip", "nft", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install -y iproute2 nftables util-linux mount"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened: run as root, or let this user open it (chmod 666 /dev/fuse)"
    return ""


def _can_mount_images() -> bool:
    return shutil.which("mkfs.ext4") is not None and os.path.exists("/dev/loop-control") and _is_real_root()


def _is_real_root() -> bool:
    """Not the root of a user namespace, which may not mount images."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _in_namespaces_of_our_own() -> int:
    """Without root: a user namespace in which we are root, with a /run of its own for network names."""
    script = 'mount -t tmpfs tmpfs /run && mkdir -p /run/netns && exec "$@"'
    argv = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private"]
    os.execvp(
        "unshare", [*argv, "sh", "-c", script, "sh", sys.executable, "-m", "orchestrator.demo", *sys.argv[1:]]
    )


def _interrupt(*_: object) -> None:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # whoever asks twice does not break the cleaning up
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
