"""From hafarm.yaml to the model's values; every error at once, as compilers print them."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.config import clouds, farms, shape, shape_witness
from orchestrator.config.marks import ConfigRefused, Marked, Path, Problem, parse
from orchestrator.config.shape_farm import Farm, FarmVip
from orchestrator.config.shape_file import File
from orchestrator.model.config import (
    PRESETS,
    REPLICATION_PORT,
    BucketConfig,
    CheckConfig,
    ClusterConfig,
    DirectoryConfig,
    EtcdConfig,
    HungDiskConfig,
    MirrorConfig,
    NodeConfig,
    RunConfig,
    SlowPeerConfig,
    TimingConfig,
    WitnessConfig,
)
from orchestrator.model.names import RESERVED_NODES, ClusterName, ModuleName, NodeName, PathName
from orchestrator.model.timings import derive

WITNESS = ("cluster", "witness")
FILE_BYTES_MAX = 1 << 20  # a cluster of a hundred modules is below 100 KiB


def load(path: str) -> ClusterConfig:
    """Read and check a file; ConfigRefused with everything that is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "not UTF-8 text"
        raise ConfigRefused(path, (Problem(1, 1, "", f"cannot be read: {why}"),)) from fault
    if len(text) > FILE_BYTES_MAX:
        raise ConfigRefused(path, (Problem(1, 1, "", f"larger than {FILE_BYTES_MAX} bytes"),))
    return load_text(text, path)


def load_text(text: str, name: str) -> ClusterConfig:
    """The same, from text; `name` stands before each error."""
    marked = parse(text, name)
    try:
        file = File.model_validate(marked.data)
    except ValidationError as fault:
        raise ConfigRefused(name, tuple(sorted(_told(marked, fault)))) from fault
    problems = sorted(_contradictions(marked, file))
    if problems:
        raise ConfigRefused(name, tuple(problems))
    return _values(file)


def schema() -> dict[str, Any]:
    """JSON Schema, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **File.model_json_schema()}


# --- telling -----------------------------------------------------------------------------------------------


def _told(marked: Marked, fault: ValidationError) -> Iterator[Problem]:
    for error in fault.errors():
        path = _without_kind(error["loc"])
        match error["type"]:
            case "extra_forbidden":
                yield marked.problem(path, "unknown field" + _meant(error["loc"]))
            case "union_tag_invalid" if path == WITNESS:
                kinds = ", ".join(shape_witness.KINDS)
                yield marked.problem((*path, "kind"), f"no kind of register; these are: {kinds}")
            case "union_tag_invalid":
                yield marked.problem((*path, "kind"), "a module is a mirror or a farm")
            case "union_tag_not_found":
                yield marked.problem((*path, "kind"), "is missing")
            case "missing":
                yield marked.problem(path, "is missing")
            case _:
                yield marked.problem(path, error["msg"].removeprefix("Value error, "))


def _without_kind(path: Path) -> Path:
    """pydantic names the kind of a module, or of a register, where the file has no such level."""
    kinds = path[:1] == ("modules",) or path[:2] == WITNESS
    return (*path[:2], *path[3:]) if kinds and len(path) > 2 else path


def _meant(path: tuple[str | int, ...]) -> str:
    """`, did you mean 'address'?` where a known field is near."""
    known = _fields_at(path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else f"; known here: {', '.join(sorted(known))}"


def _fields_at(path: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = File
    for part in path:
        if part == "farm" and model is shape.Module:
            model = Farm
        elif part in shape_witness.KINDS and issubclass(model, tuple(shape_witness.KINDS.values())):
            model = shape_witness.KINDS[part]
        elif isinstance(part, str) and part in model.model_fields:
            inner = _model_in(model.model_fields[part].annotation)
            if inner is not None:
                model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


# --- what fits alone and not together ----------------------------------------------------------------------


def _contradictions(marked: Marked, file: File) -> Iterator[Problem]:
    yield from _twice(marked, ("nodes",), [node.name for node in file.nodes], "node")
    for index, node in enumerate(file.nodes):
        if node.name in RESERVED_NODES:
            yield marked.problem(("nodes", index, "name"), f"no node may be named {node.name}")
    yield from _twice(marked, ("modules",), [module.name for module in file.modules], "module")
    yield from _addresses(marked, file)
    timing = _timing(file)
    if not derive(timing).successor_is_later:
        yield marked.problem(("cluster", "detection"), "too short: the lease would outlive the take-over")
    for index, module in enumerate(file.modules):
        yield from _module(marked, file, index, module)
        if isinstance(module, Farm):
            yield from farms.contradictions(marked, file, index, module)
        else:
            yield from _mirror_contradictions(marked, file, index, module)
            yield from clouds.contradictions(marked, file, index, module)
    yield from farms.shared_addresses(marked, file)
    yield from clouds.fence_contradictions(marked, file)
    yield from _directories(marked, file)
    yield from _ports(marked, file)


def _twice(marked: Marked, path: tuple[str, ...], names: list[str], what: str) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield marked.problem((*path, index, "name"), f"two {what}s are named {name}")


def _addresses(marked: Marked, file: File) -> Iterator[Problem]:
    paths = list(file.nodes[0].addresses)
    seen: dict[str, str] = {}
    for index, node in enumerate(file.nodes):
        for path in set(paths) ^ set(node.addresses):
            yield marked.problem(("nodes", index, "addresses"), f"every node needs the same paths: {path}")
        for path, address in node.addresses.items():
            if address in seen:
                yield marked.problem(
                    ("nodes", index, "addresses", path), f"{address} is {seen[address]}'s too"
                )
            seen[address] = node.name


def _mirror_contradictions(marked: Marked, file: File, index: int, module: shape.Module) -> Iterator[Problem]:
    for place, path in enumerate(module.replication):
        if path not in file.nodes[0].addresses:
            yield marked.problem(("modules", index, "replication", place), f"no path is named {path}")
    if file.cluster.witness is None:
        yield marked.problem(("cluster", "witness"), f"is missing: the mirror {module.name} needs one")


def _module(marked: Marked, file: File, index: int, module: shape.Module | Farm) -> Iterator[Problem]:
    here = ("modules", index)
    nodes = {node.name for node in file.nodes}
    for place, name in enumerate(module.nodes):
        if name not in nodes:
            near = difflib.get_close_matches(name, nodes, n=1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            yield marked.problem((*here, "nodes", place), f"no node is named {name}{hint}")
        if name in module.nodes[:place]:
            yield marked.problem((*here, "nodes", place), f"{name} is given twice")
    known: dict[str, int] = {}
    vips: list[shape.Vip | FarmVip] = [*module.vip]
    for place, vip in enumerate(vips):
        address = str(ipaddress.ip_interface(vip.address).ip)
        owners = [node.name for node in file.nodes if address in node.addresses.values()]
        if owners:
            yield marked.problem((*here, "vip", place, "address"), f"{address} is {owners[0]}'s own address")
        if address in known:
            yield marked.problem((*here, "vip", place, "address"), f"{address} is given twice")
        known[address] = place
    if module.checks and module.run is None:
        yield marked.problem((*here, "checks"), "checks need something to run")


def _directories(marked: Marked, file: File) -> Iterator[Problem]:
    seen: list[tuple[str, str]] = []
    for index, module in enumerate(file.modules):
        for place, replicate in enumerate([] if isinstance(module, Farm) else module.replicate):
            path = replicate.path
            for other, owner in seen:
                if path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/"):
                    text = f"{path} and {other} (module {owner}) lie in each other"
                    yield marked.problem(("modules", index, "replicate", place, "path"), text)
            seen.append((path, module.name))


def _ports(marked: Marked, file: File) -> Iterator[Problem]:
    seen: dict[int, str] = {file.cluster.ports.control: "the agents"}
    health = file.cluster.ports.health
    if health in seen:
        yield marked.problem(("cluster", "ports", "health"), f"port {health} is the agents'")
    elif health is not None:
        seen[health] = "the load balancers'"
    mirrors = [each for each in enumerate(file.modules) if not isinstance(each[1], Farm)]
    for number, (index, module) in enumerate(mirrors):
        assert not isinstance(module, Farm)
        port = module.replication_port or REPLICATION_PORT + number
        if port in seen:
            yield marked.problem(("modules", index, "replication_port"), f"port {port} is {_of(seen[port])}")
        seen[port] = module.name


def _of(owner: str) -> str:
    return owner if owner.endswith("'") else f"{owner}'s"


# --- values ------------------------------------------------------------------------------------------------


def _timing(file: File) -> TimingConfig:
    base = PRESETS[file.cluster.preset]
    return TimingConfig(file.cluster.detection or base.detection_s, file.cluster.period or base.period_s)


def _values(file: File) -> ClusterConfig:
    cluster = file.cluster
    mirrors = [module for module in file.modules if not isinstance(module, Farm)]
    return ClusterConfig(
        name=ClusterName(cluster.name),
        nodes=tuple(
            NodeConfig(NodeName(node.name), {PathName(path): where for path, where in node.addresses.items()})
            for node in file.nodes
        ),
        mirrors=tuple(_mirror(module, number) for number, module in enumerate(mirrors)),
        farms=tuple(
            farms.value(module, _run(module.run), tuple(_check(check) for check in module.checks))
            for module in file.modules
            if isinstance(module, Farm)
        ),
        timing=_timing(file),
        preset=cluster.preset,
        witness=_witness(cluster.witness) if cluster.witness else WitnessConfig(),
        heartbeat_port=cluster.ports.heartbeat,
        control_port=cluster.ports.control,
        health_port=cluster.ports.health or 0,
        fence=clouds.fence_value(cluster.fence),
        scheduled_events=cluster.scheduled_events or "",
    )


def _witness(witness: shape_witness.Witness) -> WitnessConfig:
    match witness:
        case shape_witness.WitnessProcess():
            return WitnessConfig("witness", witness.url)
        case shape_witness.Etcd():
            given = witness.model_dump(exclude={"kind", "endpoints"})
            return WitnessConfig("etcd", etcd=EtcdConfig(tuple(witness.endpoints), **given))
        case shape_witness.S3() | shape_witness.Gcs():
            return WitnessConfig(witness.kind, bucket=BucketConfig(**witness.model_dump()))
        case shape_witness.Blob():
            given = witness.model_dump(exclude={"container"})
            return WitnessConfig("blob", bucket=BucketConfig(bucket=witness.container, **given))


def _mirror(module: shape.Module, index: int) -> MirrorConfig:
    return MirrorConfig(
        name=ModuleName(module.name),
        nodes=tuple(NodeName(name) for name in module.nodes),
        replicate=tuple(
            DirectoryConfig(one.path, tuple(one.exclude), tuple(one.only), one.must_exist)
            for one in module.replicate
        ),
        run=_run(module.run),
        vip=tuple(clouds.value(one) for one in module.vip),
        checks=tuple(_check(check) for check in module.checks),
        replication=tuple(PathName(path) for path in module.replication),
        replication_port=module.replication_port or REPLICATION_PORT + index,
        on_register_loss=module.on_register_loss,
        on_link_loss=module.on_link_loss,
        overlap=module.overlap,
        ack=module.ack,
        slow_peer=SlowPeerConfig(module.slow_peer.after, module.slow_peer.do),
        hung_disk=HungDiskConfig(module.hung_disk.after, module.hung_disk.do),
        cache=module.cache,
        restarts_max=module.restarts.max,
        restarts_window_s=module.restarts.window,
        resync_rate=module.resync.rate,
        resync_workers=module.resync.workers,
    )


def _run(run: shape.Run | None) -> RunConfig:
    if run is None:
        return RunConfig()
    return RunConfig(
        command=tuple(run.command or ()),
        scripts=run.scripts or "",
        user=run.user,
        environment=dict(run.environment),
        start_timeout_s=run.start_timeout,
        stop_timeout_s=run.stop_timeout,
    )


def _check(check: shape.Check) -> CheckConfig:
    if check.tcp is not None:
        kind, target = "tcp", str(check.tcp)
    elif check.http is not None:
        kind, target = "http", check.http
    else:
        import shlex

        kind, target = "custom", shlex.join(check.custom or [])
    return CheckConfig(
        name=check.name or f"{kind} {target}",
        kind=kind,  # type: ignore[arg-type]
        target=target,
        every_s=check.every,
        timeout_s=check.timeout,
        fail_after=check.fail_after,
        action=check.action,
    )
