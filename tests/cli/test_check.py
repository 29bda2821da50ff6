"""`hafarm config check`: mistakes for programs, how much there is, and whose it is on the other nodes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.cli.machine import findings, surveyed
from orchestrator.config.load import load_text
from orchestrator.host import names
from orchestrator.model.tested import FILES_TESTED, first_copy_s
from tests.cli.served import Played, verified
from tests.cli.test_commands import Hafarm, agent, hafarm  # noqa: F401  (the fixtures)
from tests.config.words import changed
from tests.house.rules import ROOT


def test_config_check_tells_mistakes_to_programs_too(hafarm: Hafarm, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "hafarm.yaml"
    file.write_text(changed('exclude: ["*.tmp"]', "exclude: ['re:(a']").replace("user: app", "usr: app"))
    code, out, err = hafarm("-o", "json", "config", "check", str(file))
    assert (code, err) == (2, "")
    first, second = json.loads(out)["errors"]
    assert (first["code"], first["file"], first["line"], first["column"]) == ("HF6001", str(file), 9, 47)
    assert first["where"] == "modules.0.replicate.0.exclude.0"
    assert "a ( without its )" in first["text"]
    assert second["where"] == "modules.0.run.usr"
    rows = hafarm("config", "check", str(file), "-o", "tsv")[1].splitlines()
    assert rows[0].split("\t") == ["line", "column", "where", "text"]
    assert rows[1].split("\t")[:2] == ["9", "47"]


def _served_files(tmp_path: Path) -> tuple[Path, str]:
    """A directory with files, and a configuration of which it is the replicated one."""
    tree = tmp_path / "tree"
    (tree / "data").mkdir(parents=True)
    for number in range(5):
        (tree / "data" / f"f{number}").write_bytes(b"x" * 10_000)
    (tree / "data" / "second").hardlink_to(tree / "data" / "f0")
    with (tree / "data" / "hole").open("wb") as file:
        file.truncate(1 << 30)
    (tree / "x.tmp").write_bytes(b"local")
    return tree, changed("/srv/orders", str(tree)).replace("/srv/app/server.py", "-V").replace(
        "app}", "root}"
    )


def test_config_check_says_how_much_there_is_and_what_a_first_resync_takes(
    hafarm: Hafarm,  # noqa: F811
    tmp_path: Path,
) -> None:
    tree, text = _served_files(tmp_path)
    (tmp_path / "hafarm.yaml").write_text(text)
    out = hafarm("config", "check", str(tmp_path / "hafarm.yaml"), "--node", "paris", "-o", "json")[1]
    (found,) = json.loads(out)["directories"]
    assert (found["module"], found["path"], found["complete"]) == ("orders", str(tree), True)
    # The excluded file and the hole cost nobody anything, the second name of one file nothing more.
    assert (found["files"], found["directories"]) == (7, 1)
    assert 50_000 <= found["bytes"] <= 5 * 12_288
    assert found["first_resync_s"] == pytest.approx(first_copy_s(8, found["bytes"]), abs=0.1)
    out = hafarm("config", "check", str(tmp_path / "hafarm.yaml"), "--node", "paris")[1]
    assert "7 files and " in out
    assert "a first resync takes about 0 s" in out


def test_config_check_stops_counting_in_time_and_says_so(tmp_path: Path) -> None:
    tree, text = _served_files(tmp_path)
    for number in range(600):
        (tree / f"f{number}").touch()
    config = load_text(text, "hafarm.yaml")
    found = surveyed(config, "paris", 0.0)
    assert found[str(tree)].stopped
    (told,) = [one for one in findings(config, "paris", found) if "there is more" in one.text]
    assert (told.verdict, "at least" in told.text) == ("warn", True)


def test_config_check_warns_of_more_than_was_tested(tmp_path: Path) -> None:
    tree, text = _served_files(tmp_path)
    config = load_text(text, "hafarm.yaml")
    found = surveyed(config, "paris")
    assert not [one for one in findings(config, "paris", found) if "were tested (" in one.text]
    found[str(tree)].files = FILES_TESTED + 1
    (told,) = [one for one in findings(config, "paris", found) if "were tested (" in one.text]
    assert (told.verdict, told.text.startswith("1000001 files: up to 1000000")) == ("warn", True)
    assert f"{FILES_TESTED:,} files" in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")


def test_config_check_names_links_across_the_border_and_a_missing_sentinel(tmp_path: Path) -> None:
    tree, text = _served_files(tmp_path)
    (tree / "data" / "linked.tmp").hardlink_to(tree / "data" / "f1")
    (tree / "y.tmp").hardlink_to(tree / "data" / "f2")
    os.link(tree / "data" / "f3", tmp_path / "outside")
    config = load_text(text.replace('["*.tmp"]', '["*.tmp"], must_exist: data/PG'), "hafarm.yaml")
    found = findings(config, "paris", surveyed(config, "paris"))
    texts = {one.text: one.verdict for one in found if one.what == str(tree)}
    assert texts[f"{tree}/data/f3: has a hard link outside: replace it by a copy"] == "fail"
    across = f"{tree}/data/f2: has a hard link in what is not replicated: replace it by a copy"
    assert texts[across] == "fail"
    (told,) = [text for text in texts if "HF4021" in text]
    assert texts[told] == "warn"


def test_config_check_names_owners_that_are_others_on_another_node(
    agent: Played,  # noqa: F811
    hafarm: Hafarm,  # noqa: F811
    tmp_path: Path,
) -> None:
    tree, text = _served_files(tmp_path)
    os.chown(tree / "data" / "f0", 1, 2)
    os.chown(tree / "data" / "f1", 54321, 0)
    (tmp_path / "hafarm.yaml").write_text(text)
    words = ("config", "check", str(tmp_path / "hafarm.yaml"), "--node", "paris")
    assert "the owners of the files are the same on all nodes" in hafarm(*words)[1]
    here = names.known(users=[1], groups=[2])
    user, group = here["users"]["1"], here["groups"]["2"]
    agent.care.names["lyon"] = {
        "users": {"0": "root", "1": "other", "54321": "new"},
        "groups": {"0": "root", "2": group},
        "user_names": {"root": 0, user: 77},
        "group_names": {"root": 0, group: 88},
    }
    code, out, _ = hafarm(*words)
    assert code == 0
    for told in (
        f"user 1 is {user} here and other on lyon (HF4022)",
        "user 54321 is nobody here and new on lyon (HF4022)",
        f"group {group} is 2 here and 88 on lyon (HF4022)",
    ):
        assert told in out, out
    assert "user 0 " not in out
    del agent.care.kept["lyon"]
    assert "not compared with lyon" in hafarm(*words)[1]


def test_verify_names_owners_that_are_others_on_another_node(agent: Played, hafarm: Hafarm) -> None:  # noqa: F811
    agent.verified = verified(owners={"users": [1], "groups": []})
    assert "HF4022" not in hafarm("verify", "orders")[1]
    agent.care.names["lyon"] = {**names.known(), "users": {"1": "other"}}
    code, out, _ = hafarm("verify", "orders")
    assert (code, "warning: user 1 is " in out, "other on lyon (HF4022)" in out) == (0, True, True)
    told = json.loads(hafarm("verify", "orders", "-o", "json")[1])["owners"]
    assert [text for text in told if "other on lyon (HF4022)" in text]
