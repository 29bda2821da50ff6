"""`bench mirror`: which measurement gives which rows, and how many rounds each has."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from tests.bench import data, failover
from tests.bench.idle import Idle, status_ms
from tests.bench.keepalived import Pair
from tests.bench.resync import BIG, BIG_BYTES, CHANGED_BYTES, Aside, Resync, name_of
from tests.bench.rig import Rig, Served, loaded
from tests.bench.rounds import Sleeper, count
from tests.bench.rows import Row, median_row, ratios, worst_row

T = TypeVar("T")
LOAD: Final = 10.0
WINDOW_S: Final = 10.0
"""Between two looks for a role that changed."""
FAST_ADVERT_S: Final = 0.1
EQUAL_ADVERT_S: Final = 0.07
"""keepalived's backup of priority 100 waits 3.61 of these: 253 ms, as the preset fast waits 250."""


@dataclass
class Bench:
    """What a measurement has at hand."""

    work: Path
    quick: bool
    tell: Callable[[str], None]
    rig: Rig
    sleeper: Sleeper
    rows: list[Row] = field(default_factory=list)

    def much(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def rounds(self, times: int, limit_s: float, work: Callable[[], T]) -> list[T]:
        """The rounds that count; fewer than wanted when their time is over, and that is said."""
        end = time.monotonic() + limit_s
        results: list[T] = []
        for number in range(times):
            if time.monotonic() > end and results:
                self.tell(f"the time is over after {number} of {times} rounds")
                break
            result = count(work, self.sleeper.stalled_s, self.tell)
            if result is not None:
                results.append(result)
        return results


# --- failover -----------------------------------------------------------------------------------------------


def gaps(bench: Bench, names: frozenset[str]) -> Iterator[Row]:
    """Blocks of the presets and of keepalived in turn, so that each had the machine at several times."""
    wanted = [
        (preset, advert)
        for preset, advert in (("lan", 1.0), ("fast", FAST_ADVERT_S))
        if "decision_to_reply_ms" in names or any(name.startswith(f"gap_{preset}") for name in names)
    ]
    blocks = bench.much(2, 1)
    ours: dict[str, list[failover.Loss]] = defaultdict(list)
    theirs: dict[float, list[float]] = defaultdict(list)
    for _ in range(blocks):
        for preset, advert in wanted:
            served = bench.rig.served(preset)
            ours[preset] += bench.rounds(bench.much(10, 2), 150, lambda served=served: failover.lose(served))
            lose_theirs = lambda advert=advert: failover.keepalived_gap(advert, bench.rig.answer)  # noqa: E731
            theirs[advert] += bench.rounds(bench.much(3, 1), 60, lose_theirs)
    lan, fast = ([loss.gap_s for loss in ours[preset]] for preset in ("lan", "fast"))
    if lan:
        slow = f"keepalived, adverts each 1 s (its default): {_median(theirs[1.0])}"
        yield median_row("gap_lan_median_s", lan, f"{slow}; SafeKit's default detection: 30 s")
        yield worst_row("gap_lan_worst_s", lan)
    if fast:
        rival = f"keepalived, adverts each 0.1 s: {_median(theirs[FAST_ADVERT_S])}"
        yield median_row("gap_fast_median_s", fast, rival)
    both = [loss.decided_to_reply_ms for loss in (*ours["lan"], *ours["fast"])]
    yield median_row("decision_to_reply_ms", both, f"idle; worst {max(both):.1f}")


def busy(bench: Bench) -> Iterator[Row]:
    """Nothing fails but the machine is full: nobody is accused; then nodes are lost all the same."""
    served = bench.rig.served("fast")
    minutes = bench.much(10, 1) if not bench.quick else 0.5
    with loaded(LOAD, bench.much(120, 15), bench.tell), Pair(EQUAL_ADVERT_S, bench.rig.answer) as pair:
        pair.await_master()
        taken, given_up, rival, loads, stalled = _watch(bench, served, pair, 60 * minutes)
        about = (
            f"{minutes:g} min at load average {min(loads):.1f} to {max(loads):.1f}, worst stall of a "
            f"real-time sleeper {1000 * stalled:.0f} ms; keepalived with a detection of 253 ms: {rival}"
        )
        about += f"; {given_up} times the primary gave up its healthy secondary, and took it in again"
        yield Row("false_takeovers", taken, "", about, len(loads), 0)
        losses = bench.rounds(bench.much(8, 1), 240, lambda: failover.lose(served))
        load = os.getloadavg()[0]
    times = [loss.decided_to_reply_ms for loss in losses]
    yield median_row("decision_to_reply_loaded_ms", times, f"load average {load:.1f}; worst {max(times):.1f}")


def _watch(
    bench: Bench, served: Served, pair: Pair, seconds: float
) -> tuple[int, int, int, list[float], float]:
    """Take-overs and members given up here, take-overs there, the load averages, and the worst stall."""
    wall, begin, masters = time.time(), time.monotonic(), pair.masters()
    loads = [os.getloadavg()[0]]
    while time.monotonic() - begin < seconds:
        time.sleep(WINDOW_S)
        loads.append(os.getloadavg()[0])
    changes = failover.roles_taken(served, wall)
    given_up = [change for change in changes if "PRIM to ALONE" in change]
    taken = [change for change in changes if " to ALONE" in change and change not in given_up]
    for change in taken:
        bench.tell(f"a healthy node was accused: {change}")
    return (
        len(taken),
        len(given_up),
        pair.masters() - masters,
        loads,
        bench.sleeper.stalled_s(begin, time.monotonic()),
    )


def lease(bench: Bench) -> Iterator[Row]:
    served = bench.rig.served("lan")
    times = bench.much(5, 1)
    frozen = bench.rounds(times, 90, lambda: failover.silence_after_freeze(served))
    dead = bench.rounds(times, 90, lambda: failover.silence_after_death(served))
    said = f"frozen: {_median(frozen)}, dead: {_median(dead)}, after the last reply's round; lease 0.4 s"
    yield worst_row("lease_silence_s", [*frozen, *dead], said)


def restart(bench: Bench) -> Iterator[Row]:
    served = bench.rig.served("lan")
    lost = bench.rounds(bench.much(20, 3), 240, lambda: failover.restart_agent(served))
    yield worst_row("agent_restart_gap_s", lost, f"kill -9 and start, each time; {sum(lost):g} in all")


def swap(bench: Bench) -> Iterator[Row]:
    served = bench.rig.served("lan")
    times = bench.rounds(bench.much(10, 2), 120, lambda: failover.swap(served))
    yield median_row("swap_gap_s", times, f"worst {max(times):.3f}; the application stops and starts at once")


# --- the data path ------------------------------------------------------------------------------------------

MATCHES: Final = (
    # row, workload of ours, workload of theirs, contender, contender, what is told beside it
    ("limit_vs_bare_fsync4k_1", "fsync4k_1", "fsync4k_1", "limit", "bare"),
    ("limit_vs_bare_fsync4k_4", "fsync4k_4", "fsync4k_4", "limit", "bare"),
    ("limit_vs_bare_seqwrite", "seqwrite", "seqwrite", "limit", "bare"),
    ("fsync4k_1_vs_limit", "fsync4k_1", "fsync4k_1", "ours", "limit"),
    ("fsync4k_4_vs_limit", "fsync4k_4", "fsync4k_4", "ours", "limit"),
    ("fsync4k_1_vs_gluster", "fsync4k_1", "fsync4k_1", "ours", "gluster"),
    ("seqwrite_vs_limit", "seqwrite", "seqwrite", "ours_writeback", "limit"),
    ("warmread_vs_bare", "warmread", "warmread", "ours", "bare"),
    # The bare directory has no second cache that could be cold.
    ("coldread_vs_bare", "coldread", "warmread", "ours", "bare"),
    ("create_vs_gluster", "create", "create", "ours", "gluster"),
    ("untar_vs_gluster", "untar", "untar", "ours", "gluster"),
    ("sqlite_vs_gluster", "sqlite", "sqlite", "ours", "gluster"),
    ("pgbench4_vs_bare", "pgbench", "pgbench", "ours", "bare"),
)
UNITS: Final = {"seqwrite": "MiB/s", "warmread": "MiB/s", "coldread": "MiB/s", "pgbench": "tps"}


def data_path(bench: Bench, names: frozenset[str]) -> Iterator[Row]:
    """All workloads and contenders that the wanted rows need, in turn, round after round."""
    matches = [match for match in MATCHES if match[0] in names]
    runs = sorted({(w, c) for _, one, two, a, b in matches for w, c in ((one, a), (two, b))})
    place = bench.work / "data"
    bench.tell(
        f"data path: {data.refuse_memory(bench.work)}, both replicas on it; measured against: {data.about()}"
    )
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    with data.Contenders(place, any(c == "gluster" for _, c in runs)) as all_of_them:
        end = time.monotonic() + bench.much(900, 75)
        for number in range(bench.much(5, 1)):
            if time.monotonic() > end:
                bench.tell(f"the time is over after {number} rounds")
                break
            for workload in dict.fromkeys(w for w, _ in runs):
                _one_workload(
                    bench, all_of_them, workload, [c for w, c in runs if w == workload], number, figures
                )
        share = all_of_them.tls_share(0.5)
    for name, one, two, a, b in matches:
        ours, theirs = figures[one, a], figures[two, b]
        if len(ours) != len(theirs) or not ours:
            continue  # told when it failed; the row is missing, and that is an error
        yield median_row(name, ratios(ours, theirs), _beside(name, one, a, ours, b, theirs, share))


def latency(bench: Bench) -> Iterator[Row]:
    """What one synced write costs, in time above the bare directory's and in CPU; and sixteen at once."""
    measure = 0.1 if bench.quick else 0.5
    added: dict[str, list[float]] = defaultdict(list)
    many: list[float] = []
    cpu: list[float] = []
    told: dict[str, list[float]] = defaultdict(list)
    with data.Contenders(bench.work / "latency", False) as contenders:

        def one_round() -> None:
            for name in ("latency_p50", "latency_p99"):
                bare, ours = contenders.bare(name, measure), contenders.ours(name, measure)
                added[name].append(ours - bare)
                told[name].append(bare)
            many.append(contenders.ours("fsync4k_16", measure) / contenders.limit("fsync4k_16", measure))
            before = contenders.cpu_s()
            writes = contenders.ours("synced", measure)
            cpu.append(1e6 * (contenders.cpu_s() - before) / writes)

        bench.rounds(bench.much(5, 1), 150, one_round)
    for name, row in (("latency_p50", "fsync4k_added_p50_us"), ("latency_p99", "fsync4k_added_p99_us")):
        yield median_row(row, added[name], f"bare {statistics.median(told[name]):.0f} us; cache: through")
    yield median_row("fsync4k_cpu_us", cpu, "cache: through")
    yield median_row("fsync4k_16_vs_limit", many, "cache: through")


def _one_workload(
    bench: Bench,
    contenders: data.Contenders,
    workload: str,
    names: list[str],
    number: int,
    figures: dict[tuple[str, str], list[float]],
) -> None:
    """One round: each contender once, or none of them counts."""
    measure = 0.1 if bench.quick else 1.0

    def each() -> dict[str, float]:
        return {name: getattr(contenders, name)(workload, measure) for name in data.turns(names, number)}

    try:
        result = count(each, bench.sleeper.stalled_s, bench.tell)
    except (RuntimeError, subprocess.TimeoutExpired) as fault:
        bench.tell(f"{workload}: {fault}")
        return
    for name, figure in (result or {}).items():
        figures[workload, name].append(figure)


def _beside(
    name: str, workload: str, a: str, ours: list[float], b: str, theirs: list[float], share: float
) -> str:
    unit = UNITS.get(workload, "/s")
    words = f"{a} {statistics.median(ours):.0f} {unit}, {b} {statistics.median(theirs):.0f} {unit}"
    if a == "ours":
        words += "; cache: through"
    elif a == "ours_writeback":
        words += f"; cache: writeback; encrypted: a stream in Python keeps {share:.2f} of its bare speed"
    return words


# --- resync ------------------------------------------------------------------------------------------------


def resync(bench: Bench) -> Iterator[Row]:
    """A curve over trees of several sizes, a thousand files changed in each; rsync on the same trees last."""
    bench.rig.drop()
    sizes = (10_000, 100_000) if bench.quick else (10_000, 100_000, 1_000_000)
    most = sizes[-1]
    with Aside(bench.work / "resync", sizes) as aside:
        whole = aside.first_meetings()
        found: dict[str, list[Resync]] = defaultdict(list)
        for _ in range(bench.much(3, 1)):
            for name in aside.names:
                found[name] += bench.rounds(1, 120, functools.partial(aside.away_and_back, name))
        for name in aside.names:
            aside.check_equal(name)
        rsync = {size: aside.rsync_s(size) for size in sizes}
    times = {size: [one.seconds for one in found[name_of(size)]] for size in sizes}
    for size in sizes:
        bench.tell(
            f"{size:>9,} files: resync {_median(times[size])}, "
            f"compared in full {whole[name_of(size)].seconds:.2f} s, rsync -a {rsync[size]:.2f} s"
        )
    beside = ", ".join(f"{size:,}: {statistics.median(times[size]):.2f} s" for size in sizes)
    yield median_row("resync_flatness", ratios(times[most], times[sizes[0]]), beside)
    small = [one.sent_bytes / CHANGED_BYTES for size in sizes for one in found[name_of(size)]]
    large = [one.sent_bytes / BIG_BYTES for one in found[BIG]]
    words = f"1,000 files of 4 KiB: {statistics.median(small):.2f}; 3 MiB in a file of 10 GiB"
    yield worst_row("resync_bytes_ratio", [*small, *large], f"{words}: {statistics.median(large):.2f}")
    scale = 1_000_000 / most
    scaled = "" if scale == 1 else f"{most:,} files, times {scale:g}; "
    said = f"{scaled}rsync -a of 10^6 with 1,000 changed: {rsync[most] * scale:.1f} s"
    yield median_row("compare_1m_files_s", [whole[name_of(most)].seconds * scale], said)


# --- the rest -----------------------------------------------------------------------------------------------


def simulator(bench: Bench) -> Iterator[Row]:
    """A short run of the simulator; what it found is its own affair, and is told."""
    rows = bench.work / "sim.json"
    minutes = "1" if not bench.quick else "0.1"
    words = [sys.executable, "-m", "tests.sim", "--minutes", minutes, "--json", str(rows)]
    done = subprocess.run(words, capture_output=True, text=True)
    for line in done.stderr.splitlines():
        bench.tell(f"simulator: {line}")
    for row in json.loads(rows.read_text())["rows"]:
        yield Row(**{**row, "against": f"{row['n']} seeds in {minutes} min"})


def status(bench: Bench) -> Iterator[Row]:
    served = bench.rig.served("lan")
    status_ms(served)  # the first one reads the modules from the disk
    times = bench.rounds(bench.much(20, 5), 30, lambda: status_ms(served))
    yield median_row("cli_status_ms", times, f"a new process each time; worst {max(times):.0f}")


def idle(bench: Bench) -> Iterator[Row]:
    bench.rig.drop()
    with Idle(bench.work / "idle", bench.rig.answer) as still:
        seconds = bench.much(20, 5)
        cpu = bench.rounds(bench.much(3, 1), 120, lambda: still.cpu_pct(seconds))
        yield median_row("idle_cpu_pct", cpu, f"{seconds} s each, the busier node, 8 replicators included")
        yield worst_row("idle_rss_mib", still.agent_and_pulse_mib(), "the larger of two nodes")
        yield worst_row("replicator_idle_rss_mib", still.replicators_mib(), "the largest of 16")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rows that come from one measurement."""

    names: tuple[str, ...]
    run: Callable[[Bench, frozenset[str]], Iterator[Row]]


def _all(run: Callable[[Bench], Iterator[Row]]) -> Callable[[Bench, frozenset[str]], Iterator[Row]]:
    return lambda bench, names: run(bench)


ALL: Final = (
    Measurement(("lease_silence_s",), _all(lease)),
    Measurement(("agent_restart_gap_s",), _all(restart)),
    Measurement(("swap_gap_s",), _all(swap)),
    Measurement(("cli_status_ms",), _all(status)),
    Measurement(("gap_lan_median_s", "gap_lan_worst_s", "gap_fast_median_s", "decision_to_reply_ms"), gaps),
    Measurement(("false_takeovers", "decision_to_reply_loaded_ms"), _all(busy)),
    Measurement(("idle_cpu_pct", "idle_rss_mib", "replicator_idle_rss_mib"), _all(idle)),
    Measurement(tuple(match[0] for match in MATCHES), data_path),
    Measurement(
        ("fsync4k_added_p50_us", "fsync4k_added_p99_us", "fsync4k_cpu_us", "fsync4k_16_vs_limit"),
        _all(latency),
    ),
    Measurement(("resync_flatness", "resync_bytes_ratio", "compare_1m_files_s"), _all(resync)),
    Measurement(
        ("sim_weeks_per_cpu_min", "sim_faults_per_cpu_min", "sim_role_changes_per_cpu_min"), _all(simulator)
    ),
)


def _median(values: list[float]) -> str:
    if not values:
        return "not measured"
    return f"{statistics.median(values):.2f} s (n={len(values)}, {min(values):.2f} to {max(values):.2f})"
