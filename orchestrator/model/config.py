"""What the operator wants, as plain frozen values; `orchestrator.config` makes them from hafarm.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.model.names import ClusterName, ModuleName, NodeName, PathName

HEARTBEAT_PORT = 9710  # UDP; ours by habit only, set `ports:` to move it
CONTROL_PORT = 9701  # TCP, agent to agent
WITNESS_PORT = 9700  # TCP, node to witness
REPLICATION_PORT = 9720  # TCP, the first mirror's; the next mirror takes the next number
ACK_MEMORY = "ack: memory: a power cut of both nodes may lose acknowledged writes"
"""Beside every module that was configured so, on every screen."""


UNFIT_FILE_SYSTEMS: Mapping[str, str] = {
    # What a mirror cannot promise there. Whatever is not named is served; tested are ext4 and xfs.
    **dict.fromkeys(("tmpfs", "ramfs", "devtmpfs"), "it forgets everything when the current fails"),
    **dict.fromkeys(
        ("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs"),
        "it shows the kernel and keeps no files",
    ),
    **dict.fromkeys(
        ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.glusterfs", "fuse.sshfs"),
        "its disk is another machine's, which may change it behind this node's back",
    ),
    "overlay": "it gives no lasting handle to a file",
}


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One machine: its addresses by path, in the order in which the file names them."""

    name: NodeName
    addresses: Mapping[PathName, str]


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """The two knobs that every timeout is derived from; seconds."""

    detection_s: float
    period_s: float


PRESETS: Mapping[str, TimingConfig] = {
    # Detection, period: measured under overload in two-core machines, see docs/timings.md.
    "fast": TimingConfig(0.25, 0.05),
    "lan": TimingConfig(0.5, 0.05),
    "cloud": TimingConfig(2.0, 0.2),
    "wan": TimingConfig(5.0, 0.5),
}


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """An ensemble, and how one comes in; the files are on each node."""

    endpoints: tuple[str, ...]
    prefix: str = "hafarm/"
    ca: str = ""
    """Empty: the authorities that this system trusts."""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class BucketConfig:
    """A bucket of a cloud's store, or a container; credentials are each node's own."""

    kind: Literal["s3", "gcs", "blob"]
    bucket: str
    prefix: str = "hafarm/"
    region: str = ""
    """Of S3."""
    account: str = ""
    """Of Azure."""
    endpoint: str = ""
    """Empty: the cloud's own."""
    ca: str = ""
    """Of the endpoint's certificate; empty: the authorities that this system trusts."""

    @property
    def where(self) -> str:
        """For people."""
        names = {
            "s3": f"S3 bucket {self.bucket}",
            "gcs": f"Google Cloud Storage bucket {self.bucket}",
            "blob": f"Azure Blob container {self.bucket} of account {self.account}",
        }
        return names[self.kind] + (f" at {self.endpoint}" if self.endpoint else "")


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """Where the register is. Kind `none`: no automatic take-over, an operator promotes."""

    kind: Literal["witness", "etcd", "s3", "gcs", "blob", "none"] = "none"
    url: str = ""
    """Of a witness process."""
    etcd: EtcdConfig | None = None
    bucket: BucketConfig | None = None


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """One replicated directory."""

    path: str
    exclude: tuple[str, ...] = ()
    """Patterns of what is below `path` and local to each node (orchestrator.model.choice)."""
    only: tuple[str, ...] = ()
    """Patterns of what alone is replicated; empty: everything."""
    must_exist: str = ""
    """A path below `path` without which these are not the module's files."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The application: a supervised command, or scripts in `scripts`; never both."""

    command: tuple[str, ...] = ()
    scripts: str = ""
    """A directory that holds `start_prim` and `stop_prim`."""
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0
    """How long stop is asked gently; then SIGKILL of the cgroup."""


@dataclass(frozen=True, slots=True)
class CheckConfig:
    """One check of the running application."""

    name: str
    kind: Literal["tcp", "http", "custom"]
    target: str
    """tcp: `PORT` or `HOST:PORT`; http: a URL; custom: a command, split as a shell would, run without one."""
    every_s: float = 1.0
    timeout_s: float = 1.0
    fail_after: int = 3
    action: Literal["restart", "swap", "stop", "none"] = "restart"


@dataclass(frozen=True, slots=True)
class VipConfig:
    """One virtual IP: an address with its prefix length."""

    address: str
    interface: str = ""
    """Empty: the interface whose subnet holds the address."""
    source: bool = False
    """Outgoing connections take this address as their source."""
    provider: str = "auto"
    """`auto`, `onprem`, a cloud's name, or that of a package with the entry point `hafarm.providers`."""
    mode: str = ""
    """How the provider moves it; empty: the provider chooses."""
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the provider has to know for it, such as the route tables."""


@dataclass(frozen=True, slots=True)
class FenceConfig:
    """How a node is switched off from outside, and when."""

    provider: str
    """A cloud's name, or that of a package with the entry point `hafarm.providers`."""
    when: Literal["takeover", "never"] = "never"
    """`takeover`: also by itself, the node from which a role was taken over; else by an operator's order."""
    verb: Literal["off", "stop", "reset"] = "off"
    """`off` like the power; `stop`: its system is asked first; `reset`: off, seen off, and on again."""
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What the provider has to know for it, such as the region."""

    def setting(self, name: str) -> str:
        """The one value of a setting, or nothing."""
        values = self.settings.get(name, ())
        return values[0] if values else ""


@dataclass(frozen=True, slots=True)
class SlowPeerConfig:
    """What follows when a member's disk is slow; that it is slow is told at once, in any case."""

    after_s: float = 5.0
    """How long it is borne, where it is not borne for ever."""
    do: Literal["alert", "drop"] = "alert"
    """`drop`: the primary goes on without it, and takes it in again by a resync once it is fast."""


TOLD_ONLY = SlowPeerConfig()
"""What a slow peer costs by default."""


HANGS_S = 10.0
"""A disk that is awaited for so long hangs: a shared or busy one takes some seconds, and is told as slow."""


@dataclass(frozen=True, slots=True)
class HungDiskConfig:
    """What follows when the serving node's own disk answers nothing; that it does is told, in any case."""

    after_s: float = 30.0
    """How long it is borne, where it is not borne for ever."""
    do: Literal["alert", "move"] = "alert"
    """`move`: the role is given up, where another node has all that was acknowledged on its disk."""


HANG_TOLD_ONLY = HungDiskConfig()
"""What a disk that hangs costs by default: it may answer the next moment, and a move costs a restart."""


@dataclass(frozen=True, slots=True)
class MirrorConfig:
    """One mirror module."""

    name: ModuleName
    nodes: tuple[NodeName, ...]
    replicate: tuple[DirectoryConfig, ...]
    run: RunConfig = RunConfig()
    vip: tuple[VipConfig, ...] = ()
    checks: tuple[CheckConfig, ...] = ()
    replication: tuple[PathName, ...] = ()
    """Paths for the data, in order of preference; empty: every path, in the nodes' order."""
    replication_port: int = REPLICATION_PORT
    on_register_loss: Literal["hold", "stop"] = "hold"
    on_link_loss: Literal["move", "stay"] = "move"
    overlap: Literal["brief", "none"] = "brief"
    ack: Literal["disk", "memory"] = "disk"
    slow_peer: SlowPeerConfig = TOLD_ONLY
    hung_disk: HungDiskConfig = HANG_TOLD_ONLY
    cache: Literal["through", "writeback"] = "through"
    restarts_max: int = 3
    restarts_window_s: float = 86400.0
    """3 in 24 h: SafeKit's default, and as good as any; then the other node gets its chance."""
    resync_rate: int = 0
    """Bytes per second for copying; 0: no cap."""
    resync_workers: int = 6
    """Blocks that a node reads and hashes at a time for a copy or a comparison; 6 is SafeKit's number too."""


@dataclass(frozen=True, slots=True)
class PortsConfig:
    """Ports of a farm's address whose traffic is shared out together."""

    ports: tuple[tuple[int, int], ...]
    """Ranges; of a single port both ends."""
    weights: Mapping[NodeName, int]
    """Of each node of the farm; 0: none."""
    chain: tuple[tuple[NodeName, ...], ...]
    """Groups of nodes: the next serves only while nobody of the earlier is there. One group: no priority."""
    protocols: tuple[Literal["tcp", "udp"], ...] = ("tcp",)
    affinity: Literal["source", "source-port"] = "source"
    """`source`: a client stays with its node; `source-port`: each connection may go elsewhere."""


@dataclass(frozen=True, slots=True)
class FarmVipConfig:
    """One address that all nodes of a farm serve: an address with its prefix length."""

    address: str
    groups: tuple[PortsConfig, ...]


@dataclass(frozen=True, slots=True)
class FarmConfig:
    """One farm module."""

    name: ModuleName
    nodes: tuple[NodeName, ...]
    vip: tuple[FarmVipConfig, ...]
    run: RunConfig = RunConfig()
    checks: tuple[CheckConfig, ...] = ()
    interface: str = ""
    """Empty: the interface whose subnet holds the addresses."""
    mode: Literal["directed", "spread", "invisible"] = "directed"
    drain_s: float = 30.0
    """How long connections may go on where a node stops or restarts by plan."""
    reset_on_loss: bool = True
    """Clients of a node that is lost are reset at once; else they wait for their own time-out."""
    restarts_max: int = 3
    restarts_window_s: float = 86400.0

    @property
    def groups(self) -> tuple[PortsConfig, ...]:
        """Of all addresses, in the file's order."""
        return tuple(group for vip in self.vip for group in vip.groups)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The whole of hafarm.yaml."""

    name: ClusterName
    nodes: tuple[NodeConfig, ...]
    mirrors: tuple[MirrorConfig, ...] = ()
    timing: TimingConfig = PRESETS["lan"]
    preset: str = "lan"
    witness: WitnessConfig = WitnessConfig()
    heartbeat_port: int = HEARTBEAT_PORT
    control_port: int = CONTROL_PORT
    health_port: int = 0
    """Where load balancers ask; 0: nowhere."""
    revision: int = 0
    farms: tuple[FarmConfig, ...] = ()
    fence: FenceConfig | None = None
    scheduled_events: Literal["", "swap", "tell"] = ""
    """What follows when a cloud announces something for a node's machine; empty: it is not asked."""

    @property
    def modules(self) -> tuple[MirrorConfig | FarmConfig, ...]:
        """Of both kinds."""
        return (*self.mirrors, *self.farms)

    def node(self, name: NodeName) -> NodeConfig:
        return next(node for node in self.nodes if node.name == name)
