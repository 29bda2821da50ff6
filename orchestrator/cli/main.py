"""The command `hafarm`: a table of commands, each imported when it is called, so that all answer at once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import click

from orchestrator.cli.options import Wish, with_common
from orchestrator.cli.tell import Failure, complain
from orchestrator.model.codes import FAILED, USAGE
from orchestrator.model.errors import HafarmError

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "init": ("init", "Make the cluster's keys from hafarm.yaml"),
    "agent": ("processes", "Run this node"),
    "status": ("status", "Show every module, and what a failure now would mean"),
    "start": ("actions", "Start a module"),
    "stop": ("actions", "Stop a module, everywhere or on one node"),
    "restart": ("actions", "Restart the application in place"),
    "swap": ("actions", "Give the primary's role to another node, by plan"),
    "drain": ("actions", "Let a farm's node finish its connections, then stop"),
    "undrain": ("actions", "Let it take new connections again"),
    "weight": ("actions", "Give a farm's node more or less of the traffic"),
    "promote": ("actions", "Make a node primary after its peer was lost"),
    "fence": ("fence", "Have another node switched off by its cloud"),
    "resync": ("resync", "How far the copies are; estimate, pause, compare in full"),
    "verify": ("verify", "Say whether all copies are equal"),
    "divergence": ("divergence", "What two histories left behind: list, show, release"),
    "events": ("events", "Show what happened"),
    "timings": ("timings", "Show every time-out and the formula behind it"),
    "vip": ("vip", "Show where virtual IPs are, who moves them, and why so"),
    "provider": ("provider", "Test a cloud beforehand, or print the rights it needs"),
    "doctor": ("doctor", "Find what would disturb this node on the day it is needed"),
    "config": ("config", "Check hafarm.yaml, or print its schema"),
    "witness": ("processes", "Run the register that grants, or test it"),
    "demo": ("processes", "Lose a node before your own eyes"),
    "explain": ("explain", "Say what a code means and what to do"),
    "version": ("explain", "Print the version"),
}
"""Name: the module that has it as a function, and its line in the help."""


class Commands(click.Group):
    """Knows the commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"orchestrator.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_")
        assert isinstance(command, click.Command), cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=Commands,
    name="hafarm",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
@with_common
def hafarm(wish: Wish) -> None:
    """High availability for other people's applications.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 degraded or different,
    4 not allowed, 5 --wait is over, 6 refused for safety, 7 revision conflict, 8 not reachable.
    """


def main(words: list[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code."""
    words = _wait_alone(sys.argv[1:] if words is None else words)
    try:
        code: Any = hafarm.main(words, prog_name="hafarm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as fault:
        click.echo(fault.format_message())
        code = USAGE
    except click.UsageError as fault:
        fault.show()
        code = USAGE
    except click.ClickException as fault:
        fault.show()
        code = FAILED
    except (click.Abort, KeyboardInterrupt):
        code = 130  # as shells count SIGINT
    except Failure as fault:
        code = complain(fault)
    except HafarmError as fault:
        code = complain(_failure(fault))
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain of it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code if isinstance(code, int) else 0)


def _failure(fault: HafarmError) -> Failure:
    """What is wrong with a file is told line by line, as compilers do, so that editors can jump to it."""
    text = str(fault)
    if fault.code != "HF6001":
        return Failure(fault.code, text)
    click.echo(text, err=True)
    count = len(text.splitlines())
    return Failure(fault.code, f"{count} mistake{'s' * (count != 1)} in the configuration")


def _wait_alone(words: list[str]) -> list[str]:
    """`--wait` may stand without a time; click would take the word behind it for one."""
    return ["--wait=1h" if word == "--wait" else word for word in words]
