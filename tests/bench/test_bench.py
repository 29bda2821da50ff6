"""The benchmark's form, without measuring: rows, bounds, void rounds, turns."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.bench import data, mirror, rounds, rows, workloads
from tests.bench.__main__ import BENCHES

_NAMES = """
gap_lan_median_s gap_lan_worst_s gap_fast_median_s decision_to_reply_ms decision_to_reply_loaded_ms
false_takeovers lease_silence_s agent_restart_gap_s limit_vs_bare_fsync4k_1 limit_vs_bare_fsync4k_4
limit_vs_bare_seqwrite swap_gap_s fsync4k_1_vs_limit fsync4k_4_vs_limit
fsync4k_16_vs_limit fsync4k_added_p50_us fsync4k_added_p99_us fsync4k_cpu_us fsync4k_1_vs_gluster
seqwrite_vs_limit warmread_vs_bare coldread_vs_bare create_vs_gluster untar_vs_gluster sqlite_vs_gluster
pgbench4_vs_bare resync_flatness resync_bytes_ratio compare_1m_files_s sim_weeks_per_cpu_min
sim_faults_per_cpu_min sim_role_changes_per_cpu_min cli_status_ms
idle_cpu_pct idle_rss_mib replicator_idle_rss_mib
"""
_FARM = """
farm_cpu_directed_vs_direct farm_cpu_invisible_vs_direct farm_new_cpu_directed_vs_direct
farm_new_cpu_invisible_vs_direct farm_requests_directed_vs_direct farm_p50_directed_vs_direct
farm_gap_lan_median_s farm_gap_fast_median_s farm_moved_needless farm_recompute_ms
farm_cpu_s_per_gbit farm_planned_broken farm_install_ms farm_max_share_vs_mean
"""


@pytest.mark.parametrize(("name", "names"), [("mirror", _NAMES.split()), ("farm", _FARM.split())])
def test_every_row_is_in_the_table_and_comes_from_one_measurement(name: str, names: list[str]) -> None:
    measurements, specs = BENCHES[name]
    assert sorted(spec.name for spec in specs) == sorted(names)
    assert sorted(name for measurement in measurements for name in measurement.names) == sorted(names)
    assert {spec.name for spec in specs} <= set(rows.BY_NAME)


def test_a_row_that_was_not_measured_is_named() -> None:
    row = rows.median_row("swap_gap_s", [0.2])
    assert rows.missing([row], ["swap_gap_s", "cli_status_ms"]) == ["cli_status_ms"]


def test_the_median_and_the_worst_carry_count_and_spread() -> None:
    row = rows.median_row("gap_lan_median_s", [0.5, 0.7, 0.51], "beside")
    assert (row.value, row.n, row.spread, row.unit, row.against) == (0.51, 3, 0.2, "s", "beside")
    assert rows.worst_row("gap_lan_worst_s", [0.5, 0.7, 0.51]).value == 0.7
    assert rows.worst_row("create_vs_gluster", [5, 9, 7]).value == 5, "of a ratio the least is the worst"
    with pytest.raises(AssertionError, match="no round counts"):
        rows.median_row("swap_gap_s", [])


def test_ratios_are_taken_round_by_round() -> None:
    assert rows.ratios([10, 30], [5, 10]) == [2, 3]
    with pytest.raises(ValueError, match="shorter"):
        rows.ratios([1, 2], [1])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gap_lan_median_s", 0.5, "must <= 0.6 met, aim <= 0.5 met"),
        ("gap_lan_median_s", 0.61, "must <= 0.6 NOT MET, aim <= 0.5 NOT MET"),
        ("create_vs_gluster", 6, "must >= 5 met, aim >= 15 NOT MET"),
        ("create_vs_gluster", 4.9, "must >= 5 NOT MET, aim >= 15 NOT MET"),
        ("lease_silence_s", 0.4, "must <= 0.4 met"),
    ],
)
def test_bounds_are_said_beside_the_value(name: str, value: float, said: str) -> None:
    row = rows.median_row(name, [value])
    assert rows.verdict(row) == said
    assert said in rows.line(row)


def test_the_file_has_the_form_that_others_read(tmp_path: Path) -> None:
    rows.write([rows.median_row("swap_gap_s", [0.2, 0.3])], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "rows": [{"name": "swap_gap_s", "value": 0.25, "unit": "s", "against": "", "n": 2, "spread": 0.1}]
    }


def test_a_round_with_a_stall_is_void_said_aloud_and_repeated() -> None:
    told: list[str] = []
    stalls = iter([0.06, 0.0])
    results = iter(["void", "good"])
    assert rounds.count(lambda: next(results), lambda *_: next(stalls), told.append) == "good"
    (line,) = told
    assert "VOID" in line
    assert "60 ms late" in line


def test_a_round_is_repeated_three_times_and_then_left_out() -> None:
    told: list[str] = []
    played: list[int] = []
    assert rounds.count(lambda: played.append(1), lambda *_: 0.051, told.append) is None
    assert len(played) == 1 + rounds.REPEATS_MAX == 4
    assert [line.endswith("left out") for line in told] == [False, False, False, True]


def test_a_client_that_stood_still_voids_its_round() -> None:
    told: list[str] = []
    plays = iter([True, False])

    def play() -> str:
        if next(plays):
            raise rounds.Void("the probing client stood still 1 times")
        return "good"

    assert rounds.count(play, lambda *_: 0.0, told.append) == "good"
    assert "stood still" in told[0]


def test_the_sleeper_sees_a_machine_that_stands_still() -> None:
    sleeper = rounds.Sleeper()
    try:
        begin = time.monotonic()
        pid = sleeper._process.pid
        subprocess.run(["kill", "-STOP", str(pid)], check=True)
        time.sleep(3 * rounds.STALL_S)
        subprocess.run(["kill", "-CONT", str(pid)], check=True)
        deadline = time.monotonic() + 10
        while not sleeper.late and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sleeper.stalled_s(begin, time.monotonic()) > rounds.STALL_S
        assert sleeper.stalled_s(begin - 20, begin - 10) == 0.0, "another stretch of time was not touched"
    finally:
        sleeper.close()


def test_another_contender_begins_in_each_round() -> None:
    assert [data.turns(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(data.turns(["a", "b", "c"], 1)) == ["a", "b", "c"]


def test_memory_is_refused_as_a_disk(tmp_path: Path) -> None:
    with pytest.raises(data.UnfitDisk, match="tmpfs"):
        data.refuse_memory(Path("/dev/shm"))


def test_every_match_names_a_workload_and_a_contender() -> None:
    for _, ours, theirs, one, other in mirror.MATCHES:
        assert {ours, theirs} <= set(workloads.ALL)
        assert hasattr(data.Contenders, one)
        assert hasattr(data.Contenders, other)


def test_a_workload_gives_one_figure_and_takes_away_nothing_of_a_former_round() -> None:
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, "-m", "tests.bench.workloads", "untar", place, "0.01"]
        for number in range(2):
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            assert float(done.stdout) > 0
            assert len(list(Path(place).glob("*/tree"))) == number + 1
