"""The table of figures: each row's name, its bounds, and the form in which it is printed and kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Spec:
    """What a row is called and what its value must and should be: `sign` is "<=" or ">="; None: no bound."""

    name: str
    unit: str
    sign: str
    must: float | None
    aim: float | None
    what: str

    def holds(self, value: float, bound: float) -> bool:
        return value <= bound if self.sign == "<=" else value >= bound


MIRROR: Final = (
    Spec("gap_lan_median_s", "s", "<=", 0.6, 0.5, "client gap after a node's loss, preset lan: median"),
    Spec("gap_lan_worst_s", "s", "<=", 0.8, 0.5, "the same: worst"),
    Spec("gap_fast_median_s", "s", "<=", 0.35, 0.2, "client gap after a node's loss, preset fast: median"),
    Spec("decision_to_reply_ms", "ms", "<=", 10, 3, "role won to the client's first reply, idle"),
    Spec("decision_to_reply_loaded_ms", "ms", "<=", 30, 3, "the same at load average >= 10"),
    Spec("false_takeovers", "", "<=", 0, 0, "take-overs of a healthy node at load average >= 10, fast"),
    Spec("lease_silence_s", "s", "<=", 0.4, None, "address silent after the pulse's death or freeze"),
    Spec("agent_restart_gap_s", "s", "<=", 0, None, "probes lost while the agent is killed, as seconds"),
    Spec("swap_gap_s", "s", "<=", 0.5, 0.1, "client gap of a planned swap"),
    Spec("limit_vs_bare_fsync4k_1", "ratio", ">=", 0.5, None, "limit against the bare directory, 1 job"),
    Spec("limit_vs_bare_fsync4k_4", "ratio", ">=", 0.5, None, "the same, 4 jobs"),
    Spec("limit_vs_bare_seqwrite", "ratio", ">=", 0.3, None, "the same, sequential write"),
    Spec("fsync4k_1_vs_limit", "ratio", ">=", 0.55, 0.9, "4 KiB write and fsync, 1 job"),
    Spec("fsync4k_4_vs_limit", "ratio", ">=", 0.45, 0.9, "4 KiB write and fsync, 4 jobs"),
    Spec("fsync4k_16_vs_limit", "ratio", ">=", None, 0.9, "4 KiB write and fsync, 16 jobs"),
    Spec(
        "fsync4k_added_p50_us",
        "us",
        "<=",
        None,
        None,
        "4 KiB write and fsync, above the bare directory's: median",
    ),
    Spec("fsync4k_added_p99_us", "us", "<=", None, None, "the same: 99th percentile"),
    Spec("fsync4k_cpu_us", "us", "<=", None, None, "CPU of both replicators for one of these"),
    Spec("fsync4k_1_vs_gluster", "ratio", ">=", 1.5, 3, "4 KiB write and fsync, 1 job"),
    Spec("seqwrite_vs_limit", "ratio", ">=", 0.7, 0.95, "1 MiB blocks and a final fsync"),
    Spec("warmread_vs_bare", "ratio", ">=", 0.45, 0.95, "sequential read, our cache warm"),
    Spec("coldread_vs_bare", "ratio", ">=", 0.3, 0.95, "sequential read, our cache cold, the disk's warm"),
    Spec("create_vs_gluster", "ratio", ">=", 5, 15, "create, write 1 KB, close"),
    Spec("untar_vs_gluster", "ratio", ">=", 10, 50, "a source tree of some thousand entries"),
    Spec("sqlite_vs_gluster", "ratio", ">=", 3, 6, "WAL, synchronous FULL, one row a commit"),
    Spec("pgbench4_vs_bare", "ratio", ">=", 0.55, 0.9, "PostgreSQL, 4 clients"),
    Spec("resync_flatness", "ratio", "<=", 2, 1, "1,000 changed: time at 10^6 files against 10^4"),
    Spec("resync_bytes_ratio", "ratio", "<=", 2, 1.1, "bytes sent for each that changed"),
    Spec("compare_1m_files_s", "s", "<=", 10, 3, "10^6 unchanged files compared in full, metadata, warm"),
    Spec("sim_weeks_per_cpu_min", "1/min", ">=", 1, 10, "simulated cluster-weeks"),
    Spec("sim_faults_per_cpu_min", "1/min", ">=", 5000, 50000, "simulated faults"),
    Spec("sim_role_changes_per_cpu_min", "1/min", ">=", 500, 5000, "simulated role changes"),
    Spec("cli_status_ms", "ms", "<=", 150, 80, "hafarm status"),
    Spec("idle_cpu_pct", "%", "<=", 1, 0.3, "all processes of a node with 8 modules, of one core"),
    Spec("idle_rss_mib", "MiB", "<=", 90, 50, "agent and pulse with 8 modules"),
    Spec("replicator_idle_rss_mib", "MiB", "<=", 40, 25, "one replicator with its keeper"),
)
FARM: Final = (
    Spec("farm_cpu_directed_vs_direct", "ratio", "<=", 1.3, 1.05, "CPU a request, kept-alive, directed"),
    Spec("farm_cpu_invisible_vs_direct", "ratio", "<=", 1.6, 1.05, "the same, invisible"),
    Spec("farm_new_cpu_directed_vs_direct", "ratio", "<=", None, None, "a new connection each, directed"),
    Spec("farm_new_cpu_invisible_vs_direct", "ratio", "<=", None, None, "the same, invisible"),
    Spec("farm_requests_directed_vs_direct", "ratio", ">=", None, None, "requests/s, kept-alive, directed"),
    Spec("farm_p50_directed_vs_direct", "ratio", "<=", None, None, "median latency of the same"),
    Spec("farm_cpu_s_per_gbit", "s", "<=", None, None, "CPU of passing on one Gbit"),
    Spec(
        "farm_gap_lan_median_s",
        "s",
        "<=",
        0.6,
        0.5,
        "client gap after kill -9 of the node that serves it, lan",
    ),
    Spec("farm_gap_fast_median_s", "s", "<=", 0.35, 0.2, "the same, preset fast"),
    Spec("farm_moved_needless", "", "<=", 0, None, "buckets moved beyond the lost node's, 2 to 16 nodes"),
    Spec("farm_recompute_ms", "ms", "<=", None, None, "a node of 16 dies: the new maps"),
    Spec("farm_planned_broken", "", "<=", 0, 0, "connections broken by planned changes"),
    Spec("farm_install_ms", "ms", "<=", None, None, "a map of 16 nodes in the kernel of one"),
    Spec("farm_max_share_vs_mean", "ratio", "<=", 1.03, 1.01, "the busiest node of 4, 100,000 clients"),
)
CLOUD: Final = (
    Spec(
        "cloud_own_share_ms",
        "ms",
        "<=",
        50,
        20,
        "a claim by a warm worker, less the provider's own time",
    ),
    Spec("cloud_50_tables_s", "s", "<=", None, None, "a claim over 50 route tables"),
    Spec("cloud_worker_start_s", "s", "<=", None, None, "a worker, from nothing to ready"),
    Spec("cloud_worker_rss_mib", "MiB", "<=", None, None, "what it then holds, the largest"),
    Spec("cloud_loop_stall_ms", "ms", "<=", 20, None, "the agent's loop, late while a worker starts: worst"),
)
BY_NAME: Final = {spec.name: spec for spec in (*MIRROR, *FARM, *CLOUD)}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `value` is what the table bounds, `spread` the distance of the extremes over `n` rounds."""

    name: str
    value: float
    unit: str
    against: str
    n: int
    spread: float


def median_row(name: str, values: Sequence[float], against: str = "") -> Row:
    """The median of the rounds."""
    assert values, f"{name}: no round counts"
    return _row(name, statistics.median(values), values, against)


def worst_row(name: str, values: Sequence[float], against: str = "") -> Row:
    """The round farthest from its bound."""
    assert values, f"{name}: no round counts"
    pick = max if BY_NAME[name].sign == "<=" else min
    return _row(name, pick(values), values, against)


def _row(name: str, value: float, values: Sequence[float], against: str) -> Row:
    spread = max(values) - min(values)
    return Row(name, _round(value), BY_NAME[name].unit, against, len(values), _round(spread))


def _round(value: float) -> float:
    """Four digits: no figure here is known better."""
    return float(f"{value:.4g}")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round: what both had of the machine in the same minute."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def verdict(row: Row) -> str:
    """Both bounds, and whether the value keeps them."""
    spec = BY_NAME[row.name]
    said = [
        f"{word} {spec.sign} {bound:g} {'met' if spec.holds(row.value, bound) else 'NOT MET'}"
        for word, bound in (("must", spec.must), ("aim", spec.aim))
        if bound is not None
    ]
    return ", ".join(said) or "no bound"


def line(row: Row) -> str:
    """A row for people."""
    beside = f"   ({row.against})" if row.against else ""
    figures = f"{row.name:<28} {row.value:>10g} {row.unit:<6} n={row.n:<3} spread {row.spread:<8g}"
    return f"{figures} {verdict(row)}{beside}"


def missing(rows: Iterable[Row], wanted: Iterable[str]) -> list[str]:
    """The names that were to be measured and are not there."""
    found = {row.name for row in rows}
    return [name for name in wanted if name not in found]


def write(rows: Iterable[Row], file: Path) -> None:
    file.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
