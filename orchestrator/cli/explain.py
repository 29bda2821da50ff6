"""`hafarm explain` and `hafarm version`."""

from __future__ import annotations

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, columns, say
from orchestrator.model.codes import CODES, OK


@click.command()
@click.argument("code", required=False)
@with_common
def explain_(code: str | None, wish: Wish) -> int:
    """Say what CODE means and what to do, or how ADDRESS is moved; without either list all codes."""
    if code is None:
        rows = [(name, known.title) for name, known in sorted(CODES.items())]
        say(wish.form, dict(rows), "\n".join(columns(rows)), rows)
        return OK
    if "." in code or ":" in code:
        return _explain_address(code, wish)
    name = code.upper()
    known = CODES.get(name)
    if known is None:
        raise Failure("HF6005", f"{code} is no code of hafarm")
    data = {
        "code": name,
        "title": known.title,
        "meaning": known.meaning,
        "remedy": known.remedy,
        "exit": known.exit,
    }
    table = f"{name}: {known.title}\n\n{known.meaning}\n\nWhat to do: {known.remedy}"
    say(wish.form, data, table, [tuple(data), tuple(data.values())])
    return OK


def _explain_address(address: str, wish: Wish) -> int:
    """Who moves it here, and why."""
    from orchestrator.cli.agent import Agent
    from orchestrator.cli.vip import addresses

    (vip,) = addresses(Agent(wish), address)
    how = f"{vip['provider']} {vip['mode']}".strip()
    table = f"{vip['address']} of module {vip['module']} is moved by {how}: {vip['why']}"
    say(
        wish.form,
        vip,
        table,
        [("address", "provider", "mode", "why"), (address, vip["provider"], vip["mode"], vip["why"])],
    )
    return OK


@click.command()
@with_common
def version_(wish: Wish) -> int:
    """Print the version."""
    import platform
    from importlib.metadata import version

    data = {"hafarm": version("hafarm"), "python": platform.python_version()}
    say(wish.form, data, f"hafarm {data['hafarm']} (Python {data['python']})", list(data.items()))
    return OK
