"""A file that is right, to be made wrong in one place."""

from __future__ import annotations

import pytest

from orchestrator.config.load import load_text
from orchestrator.config.marks import ConfigRefused

RIGHT = """\
cluster: {name: shop, preset: lan, witness: {kind: witness, url: "https://198.18.0.20:9700"}}
nodes:
  - {name: paris, addresses: {lan: 198.18.0.11, backup: 198.18.1.11}}
  - {name: lyon, addresses: {lan: 198.18.0.12, backup: 198.18.1.12}}
modules:
  - name: orders
    kind: mirror
    nodes: [paris, lyon]
    replicate: [{path: /srv/orders, exclude: ["*.tmp"]}]
    run: {command: [/usr/bin/python3, /srv/app/server.py], user: app}
    vip: [{address: 198.18.0.100/24}]
    checks: [{tcp: 8080, every: 1s, fail_after: 3, action: restart}]
"""


def changed(old: str, new: str) -> str:
    """The right file with one thing changed."""
    assert old in RIGHT, old
    return RIGHT.replace(old, new, 1)


def refused(text: str) -> list[str]:
    """What is said of a file that is wrong, line by line."""
    with pytest.raises(ConfigRefused) as caught:
        load_text(text, "hafarm.yaml")
    return str(caught.value).splitlines()
