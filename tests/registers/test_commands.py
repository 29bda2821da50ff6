"""`hafarm init`, `witness test` and `config check` with a register that is no witness process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.config.words import changed
from tests.registers.etcd import Etcd
from tests.registers.test_etcd import ensemble


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with ensemble(tmp_path_factory.mktemp("etcd"), "one") as (member,):
        yield member


def file_with(work: Path, witness: object) -> Path:
    file = work / "hafarm.yaml"
    file.write_text(changed('{kind: witness, url: "https://198.18.0.20:9700"}', json.dumps(witness)))
    return file


def etcd_words(member: Etcd, **given: str) -> dict[str, object]:
    known = dataclasses.asdict(member.config(**given))
    return {"kind": "etcd", **{key: value for key, value in known.items() if value}}


def hafarm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_init_makes_no_keys_before_the_register_is_proved_to_be_one(member: Etcd, tmp_path: Path) -> None:
    file = file_with(tmp_path, etcd_words(member, ca=str(tmp_path / "none.crt")))
    refused = hafarm("init", file)
    assert refused.returncode == 1
    assert "HF7100" in refused.stderr
    assert "none.crt: No such file" in refused.stderr
    assert not (tmp_path / "shop-bundles").exists()
    # The nodes' files are on the nodes: then it is left to them.
    assert hafarm("init", file, "--untested").returncode == 0
    (tmp_path / "shop-bundles").rename(tmp_path / "untested")
    done = hafarm("init", file_with(tmp_path, etcd_words(member)))
    assert done.returncode == 0, done.stderr
    assert "a stale tag is refused; it answers in" in done.stdout
    assert "witness serve" not in done.stdout
    assert (tmp_path / "shop-bundles" / "paris").is_dir()


def test_witness_test_says_how_it_went(member: Etcd, tmp_path: Path) -> None:
    file = file_with(tmp_path, etcd_words(member))
    done = hafarm("witness", "test", file, "--node", "paris", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["kind"], found["where"]) == ("etcd", f"etcd at {member.url}")
    assert found["rtt_ms"] > 0
    nobody = etcd_words(member) | {"endpoints": ["https://127.0.0.1:9"]}
    silent = hafarm("witness", "test", file_with(tmp_path, nobody))
    assert (silent.returncode, "HF2002" in silent.stderr) == (8, True), silent.stderr


def test_config_check_says_what_a_node_lacks_for_its_register(member: Etcd, tmp_path: Path) -> None:
    file = file_with(tmp_path, etcd_words(member, ca=str(tmp_path / "none.crt")))
    done = hafarm("config", "check", file, "--node", "paris", "-o", "json")
    found = {each["what"]: each["verdict"] for each in json.loads(done.stdout)["findings"]}
    assert found[str(tmp_path / "none.crt")] == "fail"
    assert found[str(member.keys.work / "client.key")] == "pass"
    bucket = {"kind": "s3", "bucket": "records", "region": "eu-central-1"}
    done = hafarm("config", "check", file_with(tmp_path, bucket), "--node", "paris", "-o", "json")
    found = {each["what"]: each["verdict"] for each in json.loads(done.stdout)["findings"]}
    assert found["boto3"] == "pass"
