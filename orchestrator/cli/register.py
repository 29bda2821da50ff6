"""`hafarm witness test`: is the register one, and does it answer in time? Asked by a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any, Final

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, say
from orchestrator.model.codes import OK
from orchestrator.model.config import ClusterConfig
from orchestrator.model.timings import derive

TRIAL_TIMEOUT_S: Final = 60.0
"""A library is loaded, and seven questions are asked."""
ANSWER_S: Final = 5.0
"""Each of them; the agent's own patience is less, and what it is told here."""
FILE: Final = "/etc/hafarm/hafarm.yaml"
BUNDLE: Final = "/etc/hafarm/bundle"
STRANGER: Final = "operator"
"""Who asks where this machine is no node."""


@click.command()
@click.argument("file", default=FILE)
@click.option("--bundle", default=BUNDLE, show_default=True, metavar="DIR", help="Of this node.")
@with_common
def test(file: str, bundle: str, wish: Wish) -> int:
    """See that the register of FILE refuses a write with a stale tag, with this machine's credentials."""
    from orchestrator.config.load import load

    config = load(file)
    if config.witness.kind == "none":
        raise Failure("HF7103", f"{file} names no register")
    data = tried(config, wish.node or STRANGER, bundle)
    table = "\n".join(told(config, data))
    say(wish.form, data, table, [tuple(data), tuple(data.values())])
    return OK


def tried(config: ClusterConfig, me: str, bundle: str) -> dict[str, Any]:
    """What the trial found; Failure when it is no register, refuses or does not answer."""
    question = {
        "witness": dataclasses.asdict(config.witness),
        "cluster": config.name,
        "me": me,
        "bundle": os.path.abspath(bundle),
        "timeout_s": ANSWER_S,
    }
    words = [sys.executable, "-m", "orchestrator.providers.registers.trial"]
    try:
        done = subprocess.run(
            words, input=json.dumps(question), capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired as fault:
        raise Failure("HF2002", f"the register gave no answer within {TRIAL_TIMEOUT_S:g} s") from fault
    except ValueError as fault:
        raise Failure("HF1000", f"the trial ended without an answer: {done.stderr.strip()[-500:]}") from fault
    if "error" in answer:
        raise Failure(answer["error"]["code"], answer["error"]["text"])
    found: dict[str, Any] = answer["ok"]
    return {"kind": config.witness.kind, "where": found["where"], "rtt_ms": round(found["rtt_s"] * 1000, 2)}


def told(config: ClusterConfig, data: dict[str, Any]) -> list[str]:
    """For people."""
    compares = "it answers" if data["kind"] == "witness" else "a stale tag is refused; it answers"
    lines = [f"{data['where']}: {compares} in {data['rtt_ms']:.1f} ms"]
    budget_ms = derive(config.timing).register_budget_s * 1000
    if 2 * data["rtt_ms"] > budget_ms:
        lines.append(
            f"  slow: the preset {config.preset} leaves {budget_ms:.0f} ms for two questions; with a member "
            "lost the addresses may be silent for a moment: choose a slower preset, or a longer `detection`"
        )
    return lines
