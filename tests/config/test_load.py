"""hafarm.yaml: what is right becomes values, what is wrong is told with its place, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.load import load, load_text, schema
from orchestrator.config.marks import ConfigRefused
from orchestrator.model.config import HungDiskConfig, SlowPeerConfig
from tests.config.words import RIGHT, changed, refused

ROOT = Path(__file__).parents[2]


def test_a_right_file_becomes_the_models_values() -> None:
    config = load_text(RIGHT, "hafarm.yaml")
    module = config.mirrors[0]
    assert config.name == "shop"
    assert config.timing.detection_s == 0.5
    assert config.nodes[1].addresses == {"lan": "198.18.0.12", "backup": "198.18.1.12"}
    assert module.replicate[0].path == "/srv/orders"
    assert module.replicate[0].exclude == ("*.tmp",)
    assert module.run.command == ("/usr/bin/python3", "/srv/app/server.py")
    assert (module.checks[0].kind, module.checks[0].target, module.checks[0].every_s) == ("tcp", "8080", 1.0)
    assert module.replication_port == 9720


def test_the_example_of_the_readme_and_the_template_are_right() -> None:
    load(str(ROOT / "templates" / "hafarm.yaml"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("```yaml\n")[1].split("```")[0]
    indent = block.index("cluster")
    load_text("\n".join(line[indent:] for line in block.splitlines()), "README.md")


def test_a_plain_path_and_a_line_of_words_are_short_forms() -> None:
    text = changed('[{path: /srv/orders, exclude: ["*.tmp"]}]', "[/srv/orders/]")
    text = text.replace("[/usr/bin/python3, /srv/app/server.py]", "\"/usr/bin/env 'a b' c\"")
    module = load_text(text, "hafarm.yaml").mirrors[0]
    assert module.replicate[0].path == "/srv/orders"
    assert module.run.command == ("/usr/bin/env", "a b", "c")


def test_quantities_carry_their_unit() -> None:
    text = changed("preset: lan", "preset: lan, detection: 800ms, period: 0.1s")
    text = text.replace(
        "    vip:", "    resync: {rate: 100MiB/s, workers: 3}\n    restarts: {max: 5, window: 2h}\n    vip:"
    )
    config = load_text(text, "hafarm.yaml")
    assert (config.timing.detection_s, config.timing.period_s) == (0.8, 0.1)
    assert config.mirrors[0].resync_rate == 100 * 2**20
    assert config.mirrors[0].resync_workers == 3
    assert (config.mirrors[0].restarts_max, config.mirrors[0].restarts_window_s) == (5, 7200.0)


def test_each_mirror_gets_a_port_of_its_own() -> None:
    second = RIGHT.split("modules:\n")[1].replace("orders", "stock").replace(".100/", ".101/")
    config = load_text(RIGHT + second, "hafarm.yaml")
    assert [module.replication_port for module in config.mirrors] == [9720, 9721]


def test_an_unknown_field_is_told_with_its_place_and_the_word_that_was_meant() -> None:
    found = refused(changed("{address: 198.18.0.100/24}", "{adress: 198.18.0.100/24}"))
    assert "hafarm.yaml:11:12: modules.0.vip.0.adress: unknown field, did you mean 'address'?" in found


def test_everything_that_is_wrong_is_told_at_once_in_the_files_order() -> None:
    text = (
        changed("preset: lan", "preset: lam")
        .replace("every: 1s", "every: 1")
        .replace("user: app", "usr: app")
    )
    found = refused(text)
    assert [line.split(":")[1] for line in found] == ["1", "10", "12"]
    assert "a time with its unit is needed" in found[2]


WRONG = [
    (
        "a key twice",
        ("kind: mirror", "kind: mirror\n    kind: mirror"),
        "8:5: modules.0: kind is given twice",
    ),
    ("two nodes of one name", ("name: lyon", "name: paris"), "two nodes are named paris"),
    ("a node named as a folder of init", ("name: lyon", "name: witness"), "no node may be named witness"),
    (
        "a node that is not there",
        ("[paris, lyon]", "[paris, lion]"),
        "8:20: modules.0.nodes.1: no node is named lion, did you mean 'lyon'?",
    ),
    ("a mirror of one", ("[paris, lyon]", "[paris]"), "8:5: modules.0.nodes"),
    ("a node twice", ("[paris, lyon]", "[paris, paris]"), "paris is given twice"),
    (
        "an unknown kind",
        ("kind: mirror", "kind: lamp"),
        "7:5: modules.0.kind: a module is a mirror or a farm",
    ),
    (
        "a cloud provider",
        ("100/24}", "100/24, provider: nimbus}"),
        "modules.0.vip.0.provider: no provider is named nimbus",
    ),
    ("no prefix", ("198.18.0.100/24", "198.18.0.100"), "an address with its prefix length is needed"),
    (
        "no address at all",
        ("198.18.0.100/24", "198.18.0.400/24"),
        "an address with its prefix length is needed",
    ),
    ("a node's own address", ("198.18.0.100/24", "198.18.0.12/24"), "198.18.0.12 is lyon's own address"),
    ("an address of two nodes", ("lan: 198.18.0.12", "lan: 198.18.0.11"), "198.18.0.11 is paris's too"),
    ("a path that one node lacks", (", backup: 198.18.1.12", ""), "every node needs the same paths: backup"),
    ("a path that nobody has", ("    vip:", "    replication: [wan]\n    vip:"), "no path is named wan"),
    ("a relative directory", ("/srv/orders", "srv/orders"), "an absolute path without . or .. is needed"),
    (
        "a directory with dots",
        ("/srv/orders", "/srv/../orders"),
        "an absolute path without . or .. is needed",
    ),
    ("the root", ("path: /srv/orders", "path: /"), "an absolute path without . or .. is needed"),
    ("command and scripts", ("user: app", "scripts: /srv/app"), "either command or scripts, and not both"),
    (
        "two kinds in a check",
        ("tcp: 8080", "tcp: 8080, http: http://x/"),
        "a check is one of tcp, http and custom",
    ),
    ("a port that is none", ("tcp: 8080", "tcp: 80800"), "tcp: PORT or HOST:PORT"),
    ("a witness without a port", ("https://198.18.0.20:9700", "https://198.18.0.20"), "https://HOST:PORT"),
    ("a detection below the floor", ("preset: lan", "preset: lan, detection: 100ms"), "cluster"),
    (
        "a period that leaves no beats",
        ("preset: lan", "preset: lan, period: 400ms"),
        "at most a quarter of detection",
    ),
    (
        "a name with a capital",
        ("name: orders", "name: Orders"),
        "6:5: modules.0.name: a name has small letters",
    ),
    (
        "on is text",
        ("user: app", "environment: {A: on}, user: yes, start_timeout: on"),
        "a time with its unit is needed",
    ),
    (
        "a variable that no shell would hand on",
        ("user: app", "environment: {app.port: x}, user: app"),
        "a variable's name has letters, digits and underscores",
    ),
    ("a sexagesimal time", ("every: 1s", "every: 1:30"), "a time with its unit is needed"),
    (
        "a patience that nobody has",
        ("    vip:", "    slow_peer: {after: 100ms}\n    vip:"),
        "hafarm.yaml:11:17: modules.0.slow_peer.after: between 1s, which any disk may take, and 1h",
    ),
    (
        "a policy that is none",
        ("    vip:", "    slow_peer: {do: wait}\n    vip:"),
        "modules.0.slow_peer.do: Input should be 'alert' or 'drop'",
    ),
    (
        "a disk that is given up before it is said to hang",
        ("    vip:", "    hung_disk: {after: 5s}\n    vip:"),
        "modules.0.hung_disk.after: between 10s, when it is told, and 1h",
    ),
    ("no YAML", ("nodes: [paris, lyon]", "nodes: [paris, lyon"), "hafarm.yaml:"),
]


@pytest.mark.parametrize(("change", "told"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_mistake_is_told(change: tuple[str, str], told: str) -> None:
    found = refused(changed(*change))
    assert any(told in line for line in found), found


def test_patterns_of_both_kinds_and_a_sentinel_become_the_models_values() -> None:
    text = changed(
        'exclude: ["*.tmp"]', r"exclude: ['re:cache/\d+'], only: [data, 're:x(y|z)'], must_exist: data/PG"
    )
    (directory,) = load_text(text, "hafarm.yaml").mirrors[0].replicate
    assert directory.exclude == (r"re:cache/\d+",)
    assert directory.only == ("data", "re:x(y|z)")
    assert directory.must_exist == "data/PG"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("exclude: ['*.tmp', 're:(a']", "9:56: modules.0.replicate.0.exclude.1: a ( without its )"),
        ("exclude: ['[z-a]']", "9:47: modules.0.replicate.0.exclude.0: z-a runs backwards"),
        ("only: ['re:(a+)\\1']", "9:44: modules.0.replicate.0.only.0: \\1 is not known"),
        ("only: ['/a']", "9:44: modules.0.replicate.0.only.0: a pattern names what is below the directory"),
        ("only: []", "9:37: modules.0.replicate.0.only: nothing would be replicated"),
        ("must_exist: /srv/x", "9:37: modules.0.replicate.0.must_exist: a path below the directory"),
        ("must_exist: ../x", "9:37: modules.0.replicate.0.must_exist: a path below the directory"),
        ("must_exist: .hafarm/x", "9:37: modules.0.replicate.0.must_exist: a path below the directory"),
    ],
)
def test_a_bad_pattern_or_sentinel_is_told_at_its_place(change: str, told: str) -> None:
    found = refused(changed('exclude: ["*.tmp"]', change))
    assert any(f"hafarm.yaml:{told}" in line for line in found), found


def test_many_patterns_together_have_a_bound_too() -> None:
    large = ", ".join(f"'re:[a-z{number}]{{250}}'" for number in range(50))
    found = refused(changed('exclude: ["*.tmp"]', f"exclude: [{large}]"))
    assert any("modules.0.replicate.0: the patterns are too large" in line for line in found), found


def test_directories_must_not_lie_in_each_other_across_modules_too() -> None:
    second = RIGHT.split("modules:\n")[1].replace("name: orders", "name: stock").replace(".100/", ".101/")
    found = refused(RIGHT + second.replace("/srv/orders", "/srv/orders/stock"))
    where = "hafarm.yaml:16:18: modules.1.replicate.0.path: "
    assert found == [f"{where}/srv/orders/stock and /srv/orders (module orders) lie in each other"]


def test_words_stay_words() -> None:
    text = changed("user: app", "environment: {A: on, B: 0755, C: 1:30, D: no}, user: app")
    assert load_text(text, "hafarm.yaml").mirrors[0].run.environment == {
        "A": "on",
        "B": "0755",
        "C": "1:30",
        "D": "no",
    }


@pytest.mark.parametrize(
    "text", ["", "- 1", "just words", "a: &x [1]\nb: *x", "<<: {a: 1}", "? [a]: b", "!!python/none x"]
)
def test_what_is_no_configuration_at_all_is_refused_calmly(text: str) -> None:
    assert refused(text)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="cannot be read: No such file"):
        load(str(tmp_path / "none.yaml"))
    (tmp_path / "latin").write_bytes(b"cluster: \xe9")
    with pytest.raises(ConfigRefused, match="not UTF-8"):
        load(str(tmp_path / "latin"))


def test_the_schema_knows_every_key_and_refuses_others() -> None:
    made = schema()
    assert made["$defs"]["Module"]["additionalProperties"] is False
    assert set(made["properties"]) == {"cluster", "nodes", "modules"}


def test_a_slow_peer_is_told_by_default_and_given_up_by_choice() -> None:
    assert load_text(RIGHT, "hafarm.yaml").mirrors[0].slow_peer == SlowPeerConfig(5.0, "alert")
    text = changed("    vip:", "    slow_peer: {after: 20s, do: drop}\n    vip:")
    assert load_text(text, "hafarm.yaml").mirrors[0].slow_peer == SlowPeerConfig(20.0, "drop")


def test_a_disk_that_hangs_is_told_by_default_and_given_up_by_choice() -> None:
    assert load_text(RIGHT, "hafarm.yaml").mirrors[0].hung_disk == HungDiskConfig(30.0, "alert")
    text = changed("    vip:", "    hung_disk: {after: 1m, do: move}\n    vip:")
    assert load_text(text, "hafarm.yaml").mirrors[0].hung_disk == HungDiskConfig(60.0, "move")
