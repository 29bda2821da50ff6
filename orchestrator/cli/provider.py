"""`hafarm provider`: is the cloud ready to move addresses, and which rights does that need?"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click

from orchestrator.cli.agent import Agent
from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import OK

TEST_S = 60.0
"""A dozen requests of some seconds at the worst, after the provider's library was loaded."""
POLICY_S = 60.0


@click.group()
def provider_() -> None:
    """Is the cloud ready to move addresses, and which rights does that need?"""


@provider_.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Look only; without it what may be mended on this node is.")
@with_common
def test(name: str, dry_run: bool, wish: Wish) -> int:
    """Look at everything that a move to this node needs from provider NAME. 3: something would refuse it."""
    answer = Agent(wish).post(f"/providers/{name}/test", {"repair": not dry_run}, TEST_S)
    rows = [(one["subject"], one["problem"], one["remedy"]) for one in answer["findings"]]
    table = "\n".join(columns([("fail", *row) for row in rows])) or f"provider {name} is ready on this node"
    say(wish.form, answer, table, [("subject", "problem", "remedy"), *rows])
    if rows:
        raise Failure("HF7020", f"provider {name}: {len(rows)} thing{'s' * (len(rows) != 1)} to mend")
    return OK


@provider_.command()
@click.argument("name")
@click.argument("file", default="/etc/hafarm/hafarm.yaml")
@with_common
def policy(name: str, file: str, wish: Wish) -> int:
    """Print the least rights that provider NAME needs for what FILE configures, in the cloud's own form."""
    from orchestrator.config.load import load

    config = load(file)
    used = {vip.provider for module in config.mirrors for vip in module.vip}
    if config.fence is not None:
        used.add(config.fence.provider)
    if name not in used and "auto" not in used:
        raise Failure("HF7021", f"nothing in {file} is asked of {name}")
    documents = _documents(name, _place(config, name))
    if len(documents) == 1 and wish.form == "table":
        click.echo(json.dumps(next(iter(documents.values())), indent=2))
        return OK
    table = "\n\n".join(f"# {whose}\n{json.dumps(one, indent=2)}" for whose, one in documents.items())
    say(wish.form, documents, table, list(documents.items()))
    return OK


def _place(config: Any, name: str) -> dict[str, Any]:
    """What a provider has to know of the cluster, whichever node runs it."""
    return {
        "cluster": config.name,
        "me": config.nodes[0].name,
        "addresses": {node.name: list(node.addresses.values()) for node in config.nodes},
        "vips": [
            {
                "module": module.name,
                "address": vip.address.partition("/")[0],
                "mode": vip.mode,
                "settings": {key: list(values) for key, values in vip.settings.items()},
                "nodes": list(module.nodes),
            }
            for module in config.mirrors
            for vip in module.vip
            if vip.provider in (name, "auto")
        ],
        "health_port": config.health_port,
        "fence": _fence(config.fence) if config.fence and config.fence.provider == name else None,
    }


def _fence(fence: Any) -> dict[str, Any]:
    settings = {key: list(values) for key, values in fence.settings.items()}
    return {"provider": fence.provider, "when": fence.when, "verb": fence.verb, "settings": settings}


def _documents(name: str, place: dict[str, Any]) -> dict[str, Any]:
    """Of a process of its own: a cloud's library is loaded where it can do no harm."""
    words = [sys.executable, "-m", "orchestrator.providers.policy", name]
    try:
        done = subprocess.run(
            words, input=json.dumps(place), capture_output=True, text=True, timeout=POLICY_S, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as fault:
        raise Failure("HF7014", f"provider {name} does not say its rights: {fault}") from fault
    if "error" in told:
        raise Failure(told["error"]["code"], told["error"]["text"])
    documents: dict[str, Any] = told["ok"]
    return documents
