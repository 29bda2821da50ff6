"""Renders a plane as nftables tables: what each node passes on, keeps, drops and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from typing import Final

from orchestrator.farm.buckets import BUCKETS
from orchestrator.farm.packets import (
    IP,
    SYN,
    UNKNOWN,
    Ip,
    address_hash,
    client_hash,
    quoted_hash,
    quoting,
    to,
)
from orchestrator.farm.plane import Mode, Plane, Protocol, Service
from orchestrator.farm.ruleset import Chain, Elements, Ruleset, Table
from orchestrator.model.names import ModuleName

TABLE: Final = "hafarm_farm_"
BUCKET: Final = "typeof meta length"
"""The type of a bucket's number: a plain one of 32 bits, as the hash is. nft knows such a type only as
that of something, and the usual choice (`mark`) would have to be written into the packet before it can be
looked up, where somebody else's policy routing would find it."""

HOPS_MAX: Final = 16
"""Moves of one bucket within the time that connections are given to end: more are not remembered."""


def table_of(farm: ModuleName) -> str:
    # The name of a module has no underscore, so two modules never share a table.
    return TABLE + farm.replace("-", "_")


def rules(plane: Plane) -> Ruleset:
    """All tables of one farm on one node."""
    name = table_of(plane.farm)
    found = {("netdev", name): _receive_all(plane) if plane.mode is Mode.INVISIBLE else _receive(plane)}
    for version in sorted(plane.versions):
        found[IP[version].family, name] = _stack(plane, IP[version])
    if 4 in plane.versions:
        found["arp", name] = _arp(plane)
    return found


# --- at the interface, before anything else has seen the packet -----------------------------------------


def _receive(plane: Plane) -> Table:
    """Directed: what comes for the address and is another node's is passed on at once."""
    sets = {"peers": _peers(plane)}
    chains = {"in": _ingress(plane, [f"{ip.family} daddr {a} jump {_chain(a)}" for ip, a in _each(plane)])}
    counters: list[str] = []
    for ip, address in _each(plane):
        services = _at(plane, address)
        chains[_chain(address)] = Chain(
            (
                # Nothing is passed on twice: two nodes whose maps differ a moment would play ball with it.
                "ether saddr @peers accept",
                # Only a first fragment has ports: they are put together first, and passed on by the stack.
                f"{ip.fragment} accept",
                *(f"{to(service)} goto pass_{service.name}" for service in services),
                # An error comes from a router: whose it is says the packet of ours that it quotes.
                *(f"{quoting(service)} {_forward(plane, service, quoted_hash)}" for service in services),
            )
        )
        for service in services:
            sets[f"owner{ip.version}_{service.name}"] = _owners(plane, service)
            chains[f"pass_{service.name}"] = _pass_on(plane, service)
            counters += _passing_counters(service)
    return Table(chains, sets, tuple(counters))


def _ingress(plane: Plane, rules: list[str]) -> Chain:
    # Before everybody else's: what is passed on is not for the firewall of this node.
    return Chain(
        tuple(rules), f'type filter hook ingress device "{plane.interface}" priority -300; policy accept;'
    )


def _pass_on(plane: Plane, service: Service) -> Chain:
    """Own buckets are not in the map: the miss ends the rule, and the packet goes up to this node."""
    seen, kept = [f"counter name seen_{service.name}"], [f"counter name kept_{service.name}"]
    if service.protocol is Protocol.TCP:
        seen.append(f"{SYN} counter name seennew_{service.name}")
        kept.append(f"{SYN} counter name keptnew_{service.name}")
    return Chain((*seen, _forward(plane, service, client_hash), *kept))


def _passing_counters(service: Service) -> list[str]:
    """Seen less kept is what was passed on: a rule cannot count behind the verdict that sends."""
    both = [f"seen_{service.name}", f"kept_{service.name}"]
    if service.protocol is Protocol.TCP:
        both += [f"seennew_{service.name}", f"keptnew_{service.name}"]
    return both


def _forward(plane: Plane, service: Service, hashed: Callable[[Plane, Service], str]) -> str:
    family, version = IP[service.version].family, service.version
    return (
        f"fwd {family} to {hashed(plane, service)} map @owner{version}_{service.name}"
        f' device "{plane.interface}"'
    )


def _receive_all(plane: Plane) -> Table:
    """Invisible: every node has every packet and drops what is another's."""
    chains = {
        "in": _ingress(plane, [f"ether daddr {plane.virtual_mac} jump every"]),
        "every": Chain(tuple(f"{ip.family} daddr {a} jump {_chain(a)}" for ip, a in _each(plane))),
        # A switch learns where an address is from whoever sends with it. Nobody does: it sends to everybody.
        "out": Chain(
            (f"ether saddr {plane.virtual_mac} ether saddr set {plane.me.mac}",),
            f'type filter hook egress device "{plane.interface}" priority 0; policy accept;',
        ),
    }
    for ip, address in _each(plane):
        services = _at(plane, address)
        chains[_chain(address)] = Chain(
            (
                f"{ip.fragment} accept",
                *(f"{to(service)} goto keep_{service.name}" for service in services),
                *(f"{quoting(s)} {quoted_hash(plane, s)} != @mine_{s.name} drop" for s in services),
                *(f"{quoting(service)} accept" for service in services),
                *(["icmpv6 type nd-neighbor-solicit accept"] if ip.version == 6 else []),
                *([] if address in plane.answers else ["drop"]),
            )
        )
    for s in plane.services:
        chains[f"keep_{s.name}"] = Chain((f"{client_hash(plane, s)} != @mine_{s.name} drop",))
    return Table(chains, {f"mine_{s.name}": _buckets(_mine(plane, s)) for s in plane.services})


# --- in the stack, where connections are known ----------------------------------------------------------


def _stack(plane: Plane, ip: Ip) -> Table:
    """Connections that a bucket left behind when it moved, fragments that are whole again, and the counts."""
    addresses = [address for other, address in _each(plane) if other is ip]
    services = [service for service in plane.services if service.version == ip.version]
    invisible = plane.mode is Mode.INVISIBLE
    device = plane.device if invisible else plane.interface
    # Whoever cleans up after us finds here what we put on interfaces.
    sets = {"addresses": Elements(f"type {ip.address}", dict.fromkeys(addresses, ""))}
    begin = [
        f'iifname "{device}" {ip.family} daddr {address} jump {_chain(address)}' for address in addresses
    ]
    if ip.version == 6 and plane.mode is Mode.SPREAD:
        begin += [_solicited(plane, address) for address in addresses]
        sets |= {f"answer_{_chain(address)}": _buckets(_answered(plane, address)) for address in addresses}
    chains = {"pre": Chain(tuple(begin), "type filter hook prerouting priority -150; policy accept;")}
    for address in addresses:
        here = _at(plane, address)
        entered = [f"{to(service)} goto take_{service.name}" for service in here]
        left = [] if invisible else [rule for service in here for rule in _error_left_behind(service)]
        chains[_chain(address)] = Chain((*entered, *left))
    if not invisible:
        sets["peers"] = _peers(plane)
    for service in services:
        sets |= _stack_sets(plane, service)
        divert = _divert_all(plane, service) if invisible else _divert(plane, service)
        chains[f"take_{service.name}"] = Chain((*divert, *_take(plane, service)))
        if service.protocol is Protocol.TCP and not invisible:
            chains[f"ask_{service.name}"] = _ask(plane, service, client_hash)
            chains[f"askerror_{service.name}"] = _ask(plane, service, quoted_hash)
    return Table(chains, sets, tuple(f"{what}_{s.name}" for s in services for what in ("taken", "new")))


def _divert(plane: Plane, service: Service) -> Iterator[str]:
    duplicate = f"dup to {client_hash(plane, service)} map @owner_{service.name}"
    yield f'ether saddr != @peers {duplicate} device "{plane.interface}" drop'
    if service.protocol is Protocol.TCP:
        yield f"{UNKNOWN} jump ask_{service.name}"


def _error_left_behind(service: Service) -> Iterator[str]:
    if service.protocol is Protocol.TCP:
        yield f"{quoting(service)} ct state invalid jump askerror_{service.name}"


def _ask(plane: Plane, service: Service, hashed: Callable[[Plane, Service], str]) -> Chain:
    """Whoever had the bucket before may know the connection. While a bucket moves, two nodes may each believe
    this of the other: what goes in circles is dropped after some turns, and sent again by its client."""
    hops = IP[service.version].hops
    duplicate = f"dup to {hashed(plane, service)} map @previous_{service.name}"
    return Chain(
        (
            f"{hops} > {HOPS_MAX} {hops} set {HOPS_MAX}",
            f'{hops} > 1 {duplicate} device "{plane.interface}" drop',
            f"{hops} 1 drop",
        )
    )


def _divert_all(plane: Plane, service: Service) -> Iterator[str]:
    hashed = client_hash(plane, service)
    yield f"{hashed} != @mine_{service.name} drop"
    if service.protocol is Protocol.TCP:
        # The old owner takes nothing new; the new one resets nothing that is alive at the old one.
        yield f"ct state invalid,new {hashed} @lost_{service.name} drop"
        yield f"{UNKNOWN} {hashed} @gained_{service.name} drop"


def _take(plane: Plane, service: Service) -> Iterator[str]:
    begins = "ct state new"
    if service.protocol is Protocol.TCP:
        begins = f"{SYN} {begins}"
        if not plane.reset_on_loss:
            yield f"{UNKNOWN} drop"
    yield f"{begins} counter name new_{service.name}"
    yield f"counter name taken_{service.name}"


def _stack_sets(plane: Plane, service: Service) -> dict[str, Elements]:
    name, tcp = service.name, service.protocol is Protocol.TCP
    if plane.mode is Mode.INVISIBLE:
        sets = {f"mine_{name}": _buckets(_mine(plane, service))}
        if tcp:
            sets[f"lost_{name}"] = _buckets(service.lost - service.own(plane.me.name))
            sets[f"gained_{name}"] = _buckets(frozenset(service.previous))
        return sets
    sets = {f"owner_{name}": _owners(plane, service)}
    if tcp:
        own = {peer.name: peer.own(service.version) for peer in plane.peers}
        found = {str(bucket): own.get(node, "") for bucket, node in sorted(service.previous.items())}
        form = f"{BUCKET} : {IP[service.version].family} daddr"
        sets[f"previous_{name}"] = Elements(form, {bucket: at for bucket, at in found.items() if at})
    return sets


# --- who answers questions for an address ---------------------------------------------------------------


def _arp(plane: Plane) -> Table:
    addresses = [address for ip, address in _each(plane) if ip.version == 4]
    sets = {"addresses": Elements("type ipv4_addr", dict.fromkeys(addresses, ""))}
    match plane.mode:
        case Mode.DIRECTED:
            answered = [address for address in addresses if address in plane.answers]
            sets["answered"] = Elements("type ipv4_addr", dict.fromkeys(answered, ""))
            heard = ["arp daddr ip @addresses arp daddr ip != @answered drop"]
        case Mode.SPREAD:
            sets |= {f"answer_{_chain(a)}": _buckets(_answered(plane, a)) for a in addresses}
            heard = [
                f"arp operation request arp daddr ip {address} {address_hash(plane, 'arp saddr ip')}"
                f" != @answer_{_chain(address)} drop"
                for address in addresses
            ]
        case Mode.INVISIBLE:
            # The real interface would tell its own hardware address.
            heard = [f'iifname != "{plane.device}" arp daddr ip @addresses drop']
    # Who asks for a client with the farm's address as its own would tell the client where the farm is.
    asked = (
        f'oifname "{plane.interface}" arp operation request arp saddr ip @addresses'
        f" arp saddr ip set {plane.me.v4}"
    )
    return Table(
        {
            "in": Chain(tuple(heard), "type filter hook input priority 0; policy accept;"),
            "out": Chain((asked,), "type filter hook output priority 0; policy accept;"),
        },
        sets,
    )


def _solicited(plane: Plane, address: str) -> str:
    target = f"@th,64,128 {int(IPv6Address(address)):#034x}"
    return (
        f"icmpv6 type nd-neighbor-solicit {target} {address_hash(plane, 'ip6 saddr')}"
        f" != @answer_{_chain(address)} drop"
    )


def _answered(plane: Plane, address: str) -> frozenset[int]:
    """Whose questions this node answers: those of the clients that its first service here gives it."""
    services = _at(plane, address)
    if services:
        return services[0].own(plane.me.name)
    return frozenset(range(BUCKETS)) if address in plane.answers else frozenset()


# --- the contents of sets -------------------------------------------------------------------------------


def _each(plane: Plane) -> list[tuple[Ip, str]]:
    return [(IP[ip_address(address).version], address) for address in plane.addresses]


def _at(plane: Plane, address: str) -> list[Service]:
    return [service for service in plane.services if service.address == address]


def _chain(address: str) -> str:
    return f"to_{ip_address(address).packed.hex()}"


def _peers(plane: Plane) -> Elements:
    return Elements("type ether_addr", {peer.mac: "" for peer in plane.peers if peer.mac})


def _owners(plane: Plane, service: Service) -> Elements:
    """Bucket to the address of the peer that serves it."""
    version = service.version
    own = {peer.name: peer.own(version) for peer in plane.peers if peer.own(version)}
    elements = {str(bucket): own[node] for bucket, node in enumerate(service.owners) if node in own}
    return Elements(f"{BUCKET} : {IP[version].family} daddr", elements)


def _mine(plane: Plane, service: Service) -> frozenset[int]:
    own = service.own(plane.me.name)
    return own | service.lost if service.protocol is Protocol.TCP else own


def _buckets(buckets: frozenset[int]) -> Elements:
    return Elements(BUCKET, {str(bucket): "" for bucket in sorted(buckets)})
