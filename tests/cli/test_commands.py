"""What a person types and reads, and what a script learns from the exit code."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.machine import Finding, findings
from orchestrator.cli.main import COMMANDS, main
from orchestrator.config.load import load_text
from orchestrator.model.config import ACK_MEMORY, DirectoryConfig
from orchestrator.model.names import NodeName
from orchestrator.model.orders import Leave, Promote, Start, Swap
from orchestrator.model.report import ModuleState, Phase, Role
from tests.cli.served import LYON, PARIS, STATUS, Played, Server, verified
from tests.config.words import RIGHT, changed

Hafarm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hafarm(capsys: pytest.CaptureFixture[str]) -> Hafarm:
    """Run one command in this process: exit code, output, errors."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.out, told.err

    return run


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    with Server(tmp_path) as server:
        monkeypatch.setenv("HAFARM_SOCKET", server.socket)
        yield server.played


# --- status -------------------------------------------------------------------------------------------------


def test_status_shows_roles_in_words_and_what_a_failure_would_mean(agent: Played, hafarm: Hafarm) -> None:
    code, out, _ = hafarm("status")
    assert code == 0
    assert "cluster shop, seen from paris; witness answers in 1.2 ms" in out
    assert "orders (mirror): paris serves; if it fails, lyon takes over" in out
    assert "paris  ● PRIM    ready  in sync  serving" in out
    assert "lyon   ● SECOND  ready  in sync" in out
    assert "virtual IP 198.18.0.100/24 here, on eth0" in out
    assert max(map(len, out.splitlines())) <= 100


def test_status_has_a_form_for_each_program(agent: Played, hafarm: Hafarm) -> None:
    assert json.loads(hafarm("status", "-o", "json")[1]) == STATUS
    assert yaml.safe_load(hafarm("-o", "yaml", "status")[1]) == STATUS
    head, *rows = hafarm("status", "-o", "tsv")[1].splitlines()
    assert head.split("\t")[:3] == ["module", "node", "role"]
    assert [row.split("\t")[:3] for row in rows] == [
        ["orders", "paris", "PRIM"],
        ["orders", "lyon", "SECOND"],
    ]


def test_status_check_tells_a_script_that_redundancy_is_lost(agent: Played, hafarm: Hafarm) -> None:
    assert hafarm("status", "--check")[0] == 0
    agent.status_now = copy.deepcopy(STATUS)
    agent.status_now["modules"][0]["nodes"][0] |= {"role": "ALONE", "phase": "degraded"}
    assert hafarm("status", "--check")[0] == 3
    assert hafarm("status")[0] == 0


def test_the_hint_is_the_next_command_to_type(agent: Played, hafarm: Hafarm) -> None:
    agent.status_now = copy.deepcopy(STATUS)
    agent.status_now["modules"][0]["hint"] = "hafarm start orders --first NODE"
    assert "next: hafarm start orders --first NODE" in hafarm("status")[1]


def test_a_module_that_is_not_there_is_wrong_usage(agent: Played, hafarm: Hafarm) -> None:
    for words in (("status", "stock"), ("start", "stock")):
        code, _, err = hafarm(*words)
        assert (code, "HF1232" in err) == (2, True)


def test_an_agent_that_does_not_answer_is_unreachable(hafarm: Hafarm, tmp_path: Path) -> None:
    code, out, err = hafarm("status", "--socket", str(tmp_path / "none.sock"))
    assert (code, out) == (8, "")
    assert "error HF6002: no agent answers at" in err
    assert "fix: Start it" in err


def test_an_agent_of_another_cluster_is_asked_nothing(agent: Played, hafarm: Hafarm) -> None:
    assert hafarm("--cluster", "shop", "swap", "orders")[0] == 0
    agent.orders.clear()
    code, _, err = hafarm("--cluster", "test", "swap", "orders")
    assert (code, "belongs to cluster shop, not test" in err, agent.orders) == (6, True, [])


# --- orders -------------------------------------------------------------------------------------------------


def _swapped(agent: Played) -> None:
    agent.states = {
        PARIS: ModuleState(Role.SECOND, Phase.READY),
        LYON: ModuleState(Role.PRIM, Phase.READY, serving=True),
    }


def test_a_swap_is_ordered_followed_and_told(agent: Played, hafarm: Hafarm) -> None:
    agent.give = lambda step: (_swapped(agent), ("", ""))[1]
    code, out, _ = hafarm("swap", "orders", "--to", "lyon", "--wait=10s")
    assert code == 0
    assert [(step.node, step.order) for step in agent.orders] == [(PARIS, Swap(LYON))]
    assert "swap on paris" in out
    assert "swap orders: done" in out


def test_a_wait_that_is_over_ends_with_5_and_the_order_goes_on(agent: Played, hafarm: Hafarm) -> None:
    code, _, err = hafarm("swap", "orders", "--wait=200ms")
    assert (code, "HF6006" in err, "swap on paris" in err) == (5, True, True)


def test_an_operation_can_be_followed_by_a_program(agent: Played, hafarm: Hafarm) -> None:
    agent.give = lambda step: (_swapped(agent), ("", ""))[1]
    operation = json.loads(hafarm("swap", "orders", "-o", "json")[1])
    assert (operation["state"], operation["module"], operation["action"]) == ("done", "orders", "swap")


@pytest.mark.parametrize(
    ("code", "exit_code"), [("HF1206", 6), ("HF1207", 6), ("HF1202", 6), ("HF1226", 8), ("HF1220", 2)]
)
def test_a_refusal_says_why_and_its_exit_code_what_kind(
    agent: Played, hafarm: Hafarm, code: str, exit_code: int
) -> None:
    agent.give = lambda step: (code, "no, because")
    found, _, err = hafarm("swap", "orders")
    assert found == exit_code
    assert f"error {code}: paris: no, because" in err
    assert f"more: hafarm explain {code}" in err


def test_a_node_out_of_reach_is_told_before_anything_stops(agent: Played, hafarm: Hafarm) -> None:
    agent.states[LYON] = None
    code, _, err = hafarm("start", "orders", "--first", "paris")
    assert (code, "HF1226" in err, agent.orders) == (8, True, [])


def test_a_second_order_waits_for_the_first(agent: Played, hafarm: Hafarm) -> None:
    hafarm("swap", "orders", "--wait=100ms")
    code, _, err = hafarm("restart", "orders")
    assert (code, "HF1204" in err) == (6, True)


def test_start_and_stop_name_their_node(agent: Played, hafarm: Hafarm) -> None:
    assert hafarm("start", "orders", "--node", "lyon")[0] == 0
    hafarm("stop", "orders", "--node", "lyon", "--force", "--wait=100ms")
    assert [(step.node, step.order) for step in agent.orders] == [(LYON, Start()), (LYON, Leave(force=True))]
    assert hafarm("stop", "orders", "--force")[0] == 2


def test_promote_that_loses_data_wants_the_modules_name_typed(
    agent: Played, hafarm: Hafarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("promote", "orders", "--node", "lyon", "--accept-data-loss", "--wait=100ms")
    for typed in ("", "y\n", "yes\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code, _, err = hafarm(*words)
        assert (code, "HF6004" in err, agent.orders) == (6, True, [])
    monkeypatch.setattr(sys, "stdin", io.StringIO("orders\n"))
    assert hafarm(*words)[0] == 5
    assert [(step.node, step.order) for step in agent.orders] == [(LYON, Promote(accept_data_loss=True))]


def test_promote_needs_a_node_and_yes_asks_nothing(agent: Played, hafarm: Hafarm) -> None:
    assert hafarm("promote", "orders")[0] == 2
    hafarm("promote", "orders", "--node", "lyon", "--accept-data-loss", "--yes", "--wait=100ms")
    assert len(agent.orders) == 1


def test_verify_ends_with_3_and_names_what_differs(agent: Played, hafarm: Hafarm) -> None:
    code, out, _ = hafarm("verify", "orders", "--wait=60s")
    assert (code, "all copies are equal" in out) == (0, True)
    assert "lyon: compared 120 names and 3.0 MiB in 1.5 s, all of it" in out
    agent.verified = verified(("0:a/b", "data"))
    code, out, _ = hafarm("verify", "orders")
    assert (code, "lyon: 0:a/b  data" in out) == (3, True)
    data = json.loads(hafarm("verify", "orders", "-o", "json")[1])
    assert (data["equal"], data["complete"]) == (False, True)
    assert data["differing"] == [{"node": "lyon", "path": "0:a/b", "what": "data"}]
    assert agent.budgets == [None, None, None]


def test_verify_with_a_budget_says_how_far_it_is_and_what_it_covered(agent: Played, hafarm: Hafarm) -> None:
    part = {
        "complete": False,
        "covered_files": 500,
        "files_total": 2000,
        "percent": 25.0,
        "position": "0:m/n",
    }
    agent.verified = verified(**part)
    code, out, _ = hafarm("verify", "orders", "--budget", "30s")
    assert (code, agent.budgets) == (0, [30.0])
    assert "all copies are equal as far as they were compared" in out
    assert "since the beginning 500 names of 2000 (25.0 %); the next time it goes on behind 0:m/n" in out
    data = json.loads(hafarm("verify", "orders", "--budget", "1m", "-o", "json")[1])
    assert (data["complete"], data["coverage"]["lyon"]["percent"]) == (False, 25.0)
    for wrong in ("30", "0s", "-1s"):
        assert hafarm("verify", "orders", "--budget", wrong)[0] == 2


def test_verify_without_an_answer_never_passes(agent: Played, hafarm: Hafarm) -> None:
    agent.verified = {}
    assert hafarm("verify", "orders")[0] == 1


# --- events, timings ----------------------------------------------------------------------------------------


def test_events_are_told_with_time_node_and_code(agent: Played, hafarm: Hafarm) -> None:
    agent.journal.tell("orders", "HF1101", "PRIM under epoch 7")
    agent.journal.tell("stock", "HF1106", "stopped")
    assert "paris  orders  HF1101  PRIM under epoch 7" in hafarm("events")[1]
    assert "stock" not in hafarm("events", "--module", "orders")[1]
    assert "orders" not in hafarm("events", "--since", "1")[1]
    assert "orders" in hafarm("events", "--since", "10m")[1]
    assert hafarm("events", "--since", "yesterday")[0] == 2


def test_events_can_be_followed(agent: Played) -> None:
    agent.journal.tell("orders", "HF1101", "before")
    words = [sys.executable, "-m", "orchestrator.cli", "events", "-f", "-o", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=_unbuffered()) as following:
        assert following.stdout is not None
        try:
            assert json.loads(following.stdout.readline())["text"] == "before"
            agent.journal.tell("orders", "HF1106", "after")
            # The journal's waiters are woken in the server's loop; a long poll picks it up at the latest.
            assert json.loads(following.stdout.readline())["text"] == "after"
        finally:
            following.kill()


def _unbuffered() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_timings_show_the_formula_and_what_the_paths_have_shown(
    agent: Played, hafarm: Hafarm, tmp_path: Path
) -> None:
    (tmp_path / "hafarm.yaml").write_text(RIGHT)
    code, out, _ = hafarm("timings", str(tmp_path / "hafarm.yaml"))
    assert code == 0
    assert "0.8 T" in out
    assert "400 ms" in out
    assert "worst gap 64 ms  T of 164 ms would have been safe  fits" in out


def test_timings_say_when_a_path_was_worse_than_t_allows(
    agent: Played, hafarm: Hafarm, tmp_path: Path
) -> None:
    (tmp_path / "hafarm.yaml").write_text(
        changed("preset: lan", "preset: lan, detection: 250ms, period: 20ms")
    )
    agent.timings = _slow  # type: ignore[method-assign]
    code, out, _ = hafarm("timings", str(tmp_path / "hafarm.yaml"))
    assert (code, "T is too short" in out) == (3, True)


def test_timings_say_what_the_machine_refused_the_pulse(
    agent: Played, hafarm: Hafarm, tmp_path: Path
) -> None:
    (tmp_path / "hafarm.yaml").write_text(RIGHT)
    agent.timings = _refused  # type: ignore[method-assign]
    _, out, _ = hafarm("timings", str(tmp_path / "hafarm.yaml"))
    assert "not punctual here: no real-time scheduling" in out


async def _refused() -> dict[str, object]:
    return {**await _slow(), "realtime_refused": ["no real-time scheduling: use a longer detection time"]}


async def _slow() -> dict[str, object]:
    path = {"peer": "lyon", "path": "lan", "worst_gap_s": 0.5, "safe_detection_s": 0.6}
    return {"paths": [path], "register_rtt_s": None}


# --- files --------------------------------------------------------------------------------------------------


def test_config_check_tells_mistakes_as_compilers_do(hafarm: Hafarm, tmp_path: Path) -> None:
    file = tmp_path / "hafarm.yaml"
    file.write_text(changed("address: 198.18.0.100/24", "adress: 198.18.0.100/24"))
    code, _, err = hafarm("config", "check", str(file))
    assert code == 2
    assert err.splitlines()[0].startswith(f"{file}:11:")
    assert "did you mean 'address'?" in err
    file.write_text(RIGHT)
    code, out, _ = hafarm("config", "check", str(file))
    assert (code, "right; 2 nodes, 1 module" in out) == (0, True)


def test_acknowledgements_from_memory_are_labelled_in_every_form(agent: Played, hafarm: Hafarm) -> None:
    agent.status_now = copy.deepcopy(STATUS)
    agent.status_now["modules"][0]["ack"] = "disk"
    assert "ack:" not in hafarm("status")[1]
    agent.status_now["modules"][0]["ack"] = "memory"
    assert f"\n  {ACK_MEMORY}\n" in hafarm("status")[1]
    assert json.loads(hafarm("status", "-o", "json")[1])["modules"][0]["ack"] == "memory"
    head, *rows = [line.split("\t") for line in hafarm("status", "-o", "tsv")[1].splitlines()]
    assert [row[head.index("ack")] for row in rows] == ["memory", "memory"]


def test_config_check_labels_acknowledgements_from_memory(hafarm: Hafarm, tmp_path: Path) -> None:
    file = tmp_path / "hafarm.yaml"
    file.write_text(RIGHT)
    assert "ack:" not in hafarm("config", "check", str(file))[1]
    file.write_text(changed("    vip:", "    ack: memory\n    vip:"))
    assert f"orders: {ACK_MEMORY}" in hafarm("config", "check", str(file))[1]
    assert json.loads(hafarm("config", "check", str(file), "-o", "json")[1])["ack"] == {"orders": "memory"}


def test_config_check_looks_at_the_machine(hafarm: Hafarm, tmp_path: Path) -> None:
    file = tmp_path / "hafarm.yaml"
    text = changed("/srv/orders", str(tmp_path)).replace("user: app", "user: nobody")
    file.write_text(text.replace("/srv/app/server.py", "-V"))
    out = hafarm("config", "check", str(file), "--node", "paris")[1]
    assert f"{tmp_path}" in out
    assert "cannot be executed" not in out
    file.write_text(text.replace(str(tmp_path), str(tmp_path / "gone")).replace("nobody", "no-such-user"))
    code, out, err = hafarm("config", "check", str(file), "--node", "paris")
    assert code == 3
    assert "is no directory" in out
    assert "does not exist on this machine" in out
    assert "HF6007" in err


def test_config_check_finds_mounts_inside_a_replicated_directory() -> None:
    config = load_text(RIGHT, "hafarm.yaml")
    everything = replace(config.mirrors[0], replicate=(DirectoryConfig("/"),))
    found = findings(replace(config, mirrors=(everything,)), "paris", {})
    text = "/proc is a mount of its own (proc): move it out of the replicated directory"
    assert Finding("fail", "/", text) in found


def test_config_schema_is_json(hafarm: Hafarm) -> None:
    assert json.loads(hafarm("config", "schema")[1])["additionalProperties"] is False


def test_init_makes_a_bundle_for_each_node_and_never_overwrites(hafarm: Hafarm, tmp_path: Path) -> None:
    file = tmp_path / "hafarm.yaml"
    assert hafarm("init", "--example", str(file))[0] == 0
    assert hafarm("init", "--example", str(file))[0] == 1
    code, out, _ = hafarm("init", str(file))
    assert code == 0
    folder = tmp_path / "shop-bundles"
    assert sorted(path.name for path in folder.iterdir()) == ["ca", "lyon", "paris", "witness"]
    assert (folder / "paris" / "node.key").stat().st_mode & 0o077 == 0
    assert str(folder / "lyon") in out
    code, _, err = hafarm("init", str(file))
    assert (code, "HF5002" in err) == (1, True)


# --- the command itself -------------------------------------------------------------------------------------


def test_explain_says_what_to_do(hafarm: Hafarm) -> None:
    code, out, _ = hafarm("explain", "hf1215")
    assert (code, "What to do: Start a node that is in sync." in out) == (0, True)
    assert hafarm("explain", "HF9999")[0] == 2
    assert "HF1215" in hafarm("explain")[1]


def test_wrong_usage_ends_with_2(hafarm: Hafarm) -> None:
    for words in ((), ("nonsense",), ("swap",), ("status", "--nonsense"), ("swap", "orders", "--wait=5")):
        assert hafarm(*words)[0] == 2, words


def test_every_command_has_help(hafarm: Hafarm) -> None:
    for name in COMMANDS:
        code, out, _ = hafarm(name, "--help")
        assert (code, out.startswith("Usage: hafarm")) == (0, True), name


def test_wait_may_stand_without_a_time(agent: Played, hafarm: Hafarm) -> None:
    agent.give = lambda step: (_swapped(agent), ("", ""))[1]
    assert hafarm("swap", "--wait", "orders")[0] == 0


def test_processes_take_the_place_of_the_command(monkeypatch: pytest.MonkeyPatch, hafarm: Hafarm) -> None:
    became: list[list[str]] = []

    def execv(program: str, words: list[str]) -> None:
        became.append(words[1:])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    hafarm("agent", "--config", "/x/agent.yaml")
    hafarm("witness", "serve", "--bundle", "/b", "--listen", "127.0.0.1:1")
    hafarm("demo", "--fast", "--json", "out.json")
    assert became == [
        ["-m", "orchestrator.agent", "--config", "/x/agent.yaml", "--on-term", "keep"],
        ["-m", "orchestrator.witness", "--bundle", "/b", "--listen", "127.0.0.1:1"],
        ["-m", "orchestrator.demo", "--fast", "--json", "out.json"],
    ]


@pytest.mark.parametrize("words", [("status",), ("events",), ("swap", "orders")], ids=lambda words: words[0])
def test_what_is_typed_daily_imports_nothing_heavy(agent: Played, words: tuple[str, ...]) -> None:
    agent.give = lambda step: (_swapped(agent), ("", ""))[1]
    heavy = ("pydantic", "aiohttp", "asyncio", "cryptography", "pyroute2", "rich", "msgspec", "yaml")
    heavy += ("http", "email", "ssl", "importlib.metadata")
    code = (
        "import sys\nfrom orchestrator.cli.main import main\n"
        f"try: main({list(words)!r})\nexcept SystemExit as end: code = end.code\n"
        f"sys.exit(code or [name for name in {heavy!r} if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["my orders", "a/b", "commandé"])
def test_any_word_for_a_module_reaches_the_agent_as_it_is(agent: Played, hafarm: Hafarm, name: str) -> None:
    code, _, err = hafarm("stop", name)
    assert (code, f"error HF1232: no module here is named {name}\n" in err) == (2, True)


def test_status_answers_at_once(agent: Played) -> None:
    words = [sys.executable, "-m", "orchestrator.cli", "status"]
    took = []
    for _ in range(5):
        begun = time.process_time(), os.times().children_user + os.times().children_system
        subprocess.run(words, capture_output=True, check=True, timeout=60)
        took.append(os.times().children_user + os.times().children_system - begun[1])
    # Its own CPU time, since this machine may be busy: 0.1 s here, so that 150 ms hold on the clock.
    assert min(took) < 0.25


def test_output_that_nobody_reads_is_no_error(agent: Played) -> None:
    words = f"{sys.executable} -m orchestrator.cli explain | head -1"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_names_of_the_played_cluster_are_those_of_the_status() -> None:
    assert {NodeName(node["name"]) for node in STATUS["nodes"]} == {PARIS, LYON}
