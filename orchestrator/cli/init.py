"""`hafarm init`: the cluster's keys, one bundle for each node and one for the witness."""

from __future__ import annotations

import os

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.register import BUNDLE, STRANGER, told, tried
from orchestrator.cli.tell import Failure, say
from orchestrator.model.codes import OK


@click.command()
@click.argument("file", default="hafarm.yaml")
@click.option("--out", metavar="DIR", help="Made for the bundles; CLUSTER-bundles beside FILE.")
@click.option("--example", is_flag=True, help="Write an example FILE to begin with, and no keys.")
@click.option("--untested", is_flag=True, help="Do not ask the register, which only the nodes may reach.")
@with_common
def init_(file: str, out: str | None, example: bool, untested: bool, wish: Wish) -> int:
    """Check FILE (hafarm.yaml) and make the keys of its cluster. Nothing is ever overwritten.

    A register that is no witness process is tested first: that it refuses a write with a stale tag.
    """
    if example:
        return _example(file, wish)
    from orchestrator.config.load import load
    from orchestrator.setup.bundle import init

    config = load(file)
    nodes = [node.name for node in config.nodes]
    stored = config.witness.kind not in ("witness", "none")
    seen = [] if untested or not stored else told(config, tried(config, STRANGER, BUNDLE))
    folder = out or os.path.join(os.path.dirname(os.path.abspath(file)), f"{config.name}-bundles")
    init(config.name, nodes, folder)
    data = {"cluster": config.name, "bundles": folder, "nodes": nodes}
    lines = [f"keys of cluster {config.name} are in {folder}", ""]
    lines += [
        f"  {node}: copy {folder}/{node} to /etc/hafarm/bundle and {file} to /etc/hafarm/hafarm.yaml"
        for node in nodes
    ]
    if not stored:
        lines += [f"  witness: copy {folder}/witness to it, then hafarm witness serve --bundle DIR"]
    lines += [f"  {folder}/ca makes further keys: keep it offline", *seen, ""]
    if stored:
        lines += ["next: hafarm witness test on each node, with that node's credentials"]
    lines += ["next: hafarm agent on each node"]
    say(
        wish.form,
        data,
        "\n".join(lines),
        [("node", "bundle"), *((node, f"{folder}/{node}") for node in nodes)],
    )
    return OK


def _example(file: str, wish: Wish) -> int:
    from importlib.resources import files

    text = files("orchestrator").joinpath("templates", "hafarm.yaml").read_text(encoding="utf-8")
    try:
        with open(file, "x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as fault:
        raise Failure(
            "HF5002", f"{file} is not written: {fault.strerror}", fix="Name a file that does not exist."
        ) from fault
    say(wish.form, {"file": file}, f"{file} is written: edit it, then hafarm config check {file}", [(file,)])
    return OK
