"""Commands that become another process: replaced, so that signals and systemd see the real one."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.register import test

AGENT_FILE = "/etc/hafarm/agent.yaml"


def become(module: str, *words: str) -> NoReturn:
    """Go on as `python -m module words`."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *words])


@click.command()
@click.option("--config", default=AGENT_FILE, show_default=True, metavar="FILE", help="The node's settings.")
@click.option(
    "--on-term",
    type=click.Choice(["keep", "leave"]),
    default="keep",
    show_default=True,
    help="On SIGTERM: keep all modules running for the next agent, or stop them by plan.",
)
@click.option("--clean", is_flag=True, help="Take away what farms left in this kernel, and end.")
@with_common
def agent_(config: str, on_term: str, clean: bool, wish: Wish) -> None:
    """Run this node until SIGTERM."""
    become("orchestrator.agent", "--config", config, "--on-term", on_term, *(["--clean"] if clean else []))


@click.group()
def witness_() -> None:
    """The register that grants: run the witness, or test whichever register hafarm.yaml names."""


@witness_.command()
@click.option("--listen", metavar="HOST:PORT", help="Where nodes reach it; 0.0.0.0:9700.")
@click.option(
    "--bundle", multiple=True, required=True, metavar="DIR", help="From `hafarm init`; one per cluster."
)
@click.option("--state", metavar="DIR", help="Where the records are kept; /var/lib/hafarm-witness.")
@with_common
def serve(listen: str | None, bundle: tuple[str, ...], state: str | None, wish: Wish) -> None:
    """Serve until SIGTERM."""
    words = [word for one in bundle for word in ("--bundle", one)]
    words += ["--listen", listen] if listen else []
    words += ["--state", state] if state else []
    become("orchestrator.witness", *words)


witness_.add_command(test)


@click.command()
@click.option("--fast", is_flag=True, help="Linger less between the steps.")
@click.option("--keep", is_flag=True, help="Keep logs and disks, and say where.")
@click.option("--json", "file", metavar="FILE", help="Write what was measured there.")
@with_common
def demo_(fast: bool, keep: bool, file: str | None, wish: Wish) -> None:
    """Two nodes, a witness and clients on this machine alone: lose a node, lose no write."""
    words = [word for word, wanted in (("--fast", fast), ("--keep", keep)) if wanted]
    become("orchestrator.demo", *words, *(["--json", file] if file else []))
