"""An agent that cannot begin says why, with a code and what to do, and has touched nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.model.codes import CODES
from orchestrator.setup.bundle import init
from tests.config.words import RIGHT


class Node:
    """The files of one node, right until a test makes one of them wrong."""

    def __init__(self, work: Path) -> None:
        self.work = work
        init("shop", ["paris", "lyon"], str(work / "keys"))
        init("prod", ["paris", "lyon"], str(work / "prod"))
        self.bundle = work / "keys" / "paris"
        self.config = work / "hafarm.yaml"
        self.config.write_text(RIGHT)
        self.settings = {
            "node": "paris",
            "config": str(self.config),
            "bundle": str(self.bundle),
            **{name: str(work / name) for name in ("state_dir", "run_dir", "log_dir")},
        }

    def begin(self, *way: str) -> subprocess.CompletedProcess[str]:
        file = self.work / "agent.yaml"
        if not file.exists():
            file.write_text(json.dumps(self.settings))
        argv = [*way, sys.executable, "-m", "orchestrator.agent", "--config", str(file)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def _other_bundle(node: Node, *where: str) -> None:
    shutil.rmtree(node.bundle)
    shutil.copytree(node.work.joinpath(*where), node.bundle)


WRONG: dict[str, tuple[Callable[[Node], object], str, str]] = {
    "no agent.yaml": (lambda node: (node.work / "agent.yaml").mkdir(), "HF6001", "cannot be read"),
    "an unknown setting": (lambda node: node.settings.update(nodes="x"), "HF6001", "unknown field"),
    "no node": (lambda node: node.settings.pop("node"), "HF6001", "is missing"),
    "a node that is not configured": (
        lambda node: node.settings.update(node="pari"),
        "HF6001",
        "agent.yaml:1:2: node: no node of",
    ),
    "a node that is nearly configured": (
        lambda node: node.settings.update(node="pari"),
        "HF6001",
        "did you mean 'paris'?",
    ),
    "a wrong hafarm.yaml": (
        lambda node: node.config.write_text(RIGHT.replace("kind: mirror", "kind: mirror\n    knid: x")),
        "HF6001",
        "did you mean 'kind'?",
    ),
    "an address of another machine": (lambda node: None, "HF1003", "is not on this machine"),
    "no hafarm.yaml": (lambda node: node.config.unlink(), "HF6001", "cannot be read"),
    "another node's bundle": (lambda node: _other_bundle(node, "keys", "lyon"), "HF5002", "lyon"),
    "another cluster's bundle": (lambda node: _other_bundle(node, "prod", "paris"), "HF5002", "prod"),
    "a certificate cut short": (
        lambda node: (node.bundle / "node.crt").write_text((node.bundle / "node.crt").read_text()[:200]),
        "HF5002",
        "cannot be read",
    ),
    "an empty key": (lambda node: (node.bundle / "node.key").write_text(""), "HF5002", "cannot be read"),
    "a heartbeat key cut short": (
        lambda node: (node.bundle / "heartbeat.key").write_text("abcd"),
        "HF5002",
        "wrong length",
    ),
    "no bundle": (lambda node: shutil.rmtree(node.bundle), "HF5002", "is missing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_agent_that_cannot_begin_says_why(tmp_path: Path, what: str) -> None:
    harm, code, words = WRONG[what]
    node = Node(tmp_path)
    harm(node)
    done = node.begin()
    assert done.returncode == CODES[code].exit
    assert done.stderr.startswith(f"error {code}: "), done.stderr
    assert words in done.stderr
    assert "\n  fix: " in done.stderr
    assert f"hafarm explain {code}" in done.stderr
    for place in ("state_dir", "run_dir", "log_dir"):
        assert not (tmp_path / place).exists()


def test_what_another_process_read_arrives_whole(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.config.write_text(RIGHT.replace("path: /srv/orders", 'path: "/srv/b\\udcffd"'))
    (tmp_path / "agent.yaml").write_text(json.dumps(node.settings))
    code = (
        "import sys\nfrom orchestrator.agent.__main__ import Reader\nbegun = Reader(sys.argv[1]).result()\n"
        "assert 'pydantic' not in sys.modules\nfrom orchestrator.agent.files import read\n"
        "assert begun == read(sys.argv[1]), begun"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "agent.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


HIDE = """
mount --make-rprivate /
for file in $(command -v nft || ls /usr/sbin/nft) $(find /usr/lib -maxdepth 2 -name 'libnftables.so.1'); do
  mount --bind /dev/null "$file"
done
exec "$@"
"""
"""Runs the rest where nftables is not installed, as far as anybody can see."""
POWERLESS = ("unshare", "--user", "--map-root-user")
"""Runs the rest as somebody who looks like root, and has no right to this machine's network."""


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (("unshare", "--mount", "sh", "-c", HIDE, "sh"), "neither libnftables.so.1 nor the program nft"),
        (POWERLESS, "Operation not permitted"),
    ],
)
def test_without_nftables_or_the_right_to_it_an_agent_does_not_begin(
    tmp_path: Path, way: tuple[str, ...], words: str
) -> None:
    node = Node(tmp_path)
    done = node.begin(*way)
    assert (done.returncode, words in done.stderr) == (CODES["HF3010"].exit, True), done.stderr
    assert done.stderr.startswith("error HF3010: nftables refused: "), done.stderr
    for place in ("state_dir", "run_dir", "log_dir"):
        assert not (tmp_path / place).exists()
