"""What requests that change something do: refused at once, or done when the operation ends."""

from __future__ import annotations

import copy
import ipaddress
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.clouds.gcp import rules
from tests.clouds.gcp.errors import GoogleError, OperationError, not_found
from tests.clouds.gcp.schemas import Json
from tests.clouds.gcp.store import LINK, Store, fingerprint, path_of

Finish = Callable[[], None]
KINDS: Final[Mapping[str, str]] = {"addresses": "address"}
"""Collections whose things are not called as they without the last letter."""
CHANGEABLE: Final = frozenset({"fingerprint", "aliasIpRanges", "name"})
"""Of an interface, while its machine runs."""


@dataclass
class Changes:
    """The changes of one cloud."""

    store: Store
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Instance group to the paths of its instances."""
    healthy: dict[str, bool] = field(default_factory=dict)
    """Path of an instance to what its probes see; a test, or one who probes, writes it."""

    def made(self, path: str, body: Json) -> Json:
        """A resource that is there at once."""
        collection = path.rsplit("/", 2)[1]
        project = path.split("/")[1]
        body = copy.deepcopy(body)
        if collection == "routes":
            rules.check_route(self.store, project, body)
        if collection == "instances":
            body = self._instance(project, body)
        for name in ("network", "subnetwork", "backendService", "target", "instance"):
            if name in body:
                body[name] = rules.link(self.store, body[name], project)
        made = self.store.add(path, KINDS.get(collection, collection.removesuffix("s")), body)
        if collection in ("forwardingRules", "backendServices", "subnetworks"):
            made["fingerprint"] = fingerprint(made)
        return made

    def _instance(self, project: str, body: Json) -> Json:
        body.setdefault("status", "RUNNING")
        for number, interface in enumerate(body["networkInterfaces"]):
            interface["subnetwork"] = rules.link(self.store, interface["subnetwork"], project)
            subnet = self.store.resources[path_of(interface["subnetwork"])]
            interface |= {
                "name": f"nic{number}",
                "network": subnet["network"],
                "kind": "compute#networkInterface",
            }
            interface["fingerprint"] = fingerprint(interface)
        return body

    def overtake(self, path: str) -> None:
        """What another writer does to whoever read before."""
        resource = self.store.resources.get(path, {})
        other = b64encode(uuid.uuid4().bytes[:8]).decode()
        for each in (resource, *resource.get("networkInterfaces", [])):
            if "fingerprint" in each:
                each["fingerprint"] = other

    def prepared(
        self, resource: str, verb: str, path: str, query: Mapping[str, str], body: Json
    ) -> tuple[str, Finish]:
        """What the operation is about and what it does at its end; refused here is refused at once."""
        if verb == "insert":
            return self._insert(f"{path}/{body['name']}", body)
        held = self.store.need(path)
        steps: dict[str, Callable[[], Finish]] = {
            "delete": lambda: self._delete(path),
            "patch": lambda: self._patch(path, held, body),
            "setTarget": lambda: self._set_target(path, held, body),
            "updateNetworkInterface": lambda: self._update_interface(path, held, query, body),
            "addAccessConfig": lambda: self._add_access(held, query, body),
            "deleteAccessConfig": lambda: self._delete_access(held, query),
            "stop": lambda: self._power(held, "STOPPING", "TERMINATED"),
            "start": lambda: self._power(held, "STAGING", "RUNNING"),
            "reset": lambda: self._reset(held),
            "addInstances": lambda: self._regroup(path, body, add=True),
            "removeInstances": lambda: self._regroup(path, body, add=False),
        }
        if verb not in steps:
            raise NotImplementedError(f"{resource}.{verb}: the cloud can do this, and the simulator cannot")
        return path, steps[verb]()

    def _insert(self, path: str, body: Json) -> tuple[str, Finish]:
        if path in self.store.resources:
            raise GoogleError(409, "alreadyExists", f"The resource '{path}' already exists")
        if path.rsplit("/", 2)[1] == "routes":
            rules.check_route(self.store, path.split("/")[1], body)

        def finish() -> None:
            self.made(path, body)

        return path, finish

    def _delete(self, path: str) -> Finish:
        def finish() -> None:
            del self.store.resources[path]

        return finish

    def _patch(self, path: str, held: Json, body: Json) -> Finish:
        if "fingerprint" in held:
            _require_fingerprint(held, body)

        def finish() -> None:
            held.update(copy.deepcopy(body))
            if "fingerprint" in held:
                held["fingerprint"] = fingerprint(held)

        return finish

    def _set_target(self, path: str, held: Json, body: Json) -> Finish:
        target = rules.link(self.store, body["target"], path.split("/")[1])

        def finish() -> None:
            held["target"] = target
            held["fingerprint"] = fingerprint(held)

        return finish

    # --- instances ---

    def _update_interface(self, path: str, held: Json, query: Mapping[str, str], body: Json) -> Finish:
        interface = _interface(held, query["networkInterface"])
        _require_fingerprint(interface, body)
        other = set(body) - CHANGEABLE
        if other:
            raise GoogleError(
                400,
                "invalid",
                f"Invalid value for field 'resource.{min(other)}': stop the instance to change it.",
            )
        # What is not told stays as it is: an empty list that is left out of the body removes nothing.
        if "aliasIpRanges" not in body:
            return lambda: None
        wanted = [rules.alias_range(self.store, interface, each) for each in body["aliasIpRanges"]]

        def finish() -> None:
            for each in wanted:
                self._require_free(ipaddress.IPv4Network(each["ipCidrRange"]), interface, path)
            interface["aliasIpRanges"] = wanted
            interface["fingerprint"] = fingerprint(interface)

        return finish

    def _require_free(self, wanted: ipaddress.IPv4Network, interface: Json, path: str) -> None:
        for taken, holder in rules.holders(self.store, interface["subnetwork"]):
            if wanted.overlaps(taken) and holder != path:
                raise OperationError(
                    "IP_IN_USE_BY_ANOTHER_RESOURCE",
                    f"IP '{wanted}' is already being used by another resource '{holder}'.",
                )

    def _add_access(self, held: Json, query: Mapping[str, str], body: Json) -> Finish:
        interface = _interface(held, query["networkInterface"])
        if interface.get("accessConfigs"):
            raise GoogleError(400, "invalid", "At most one access config currently supported.")

        def finish() -> None:
            for instance in rules.of_kind(self.store, "instances"):
                for each in instance["networkInterfaces"]:
                    if body.get("natIP") in [one.get("natIP") for one in each.get("accessConfigs", [])]:
                        raise OperationError(
                            "IP_IN_USE_BY_ANOTHER_RESOURCE",
                            f"IP '{body['natIP']}' is already being used by '{instance['selfLink']}'.",
                        )
            interface["accessConfigs"] = [{"kind": "compute#accessConfig"} | copy.deepcopy(body)]
            interface["fingerprint"] = fingerprint(interface)

        return finish

    def _delete_access(self, held: Json, query: Mapping[str, str]) -> Finish:
        interface = _interface(held, query["networkInterface"])
        named = [each.get("name") for each in interface.get("accessConfigs", [])]
        if query["accessConfig"] not in named:
            raise GoogleError(400, "invalid", f"There is no access config '{query['accessConfig']}'.")

        def finish() -> None:
            del interface["accessConfigs"]
            interface["fingerprint"] = fingerprint(interface)

        return finish

    def _power(self, held: Json, meanwhile: str, after: str) -> Finish:
        held["status"] = meanwhile
        self.store.changed()

        def finish() -> None:
            held["status"] = after

        return finish

    def _reset(self, held: Json) -> Finish:
        if held["status"] != "RUNNING":
            raise GoogleError(
                400, "resourceNotReady", f"The resource '{path_of(held['selfLink'])}' is not ready"
            )
        return lambda: None

    # --- groups and health ---

    def _regroup(self, path: str, body: Json, *, add: bool) -> Finish:
        named = [
            path_of(rules.link(self.store, each["instance"], path.split("/")[1]))
            for each in body["instances"]
        ]
        members = self.groups.setdefault(path, [])
        wrong = [each for each in named if (each in members) == add]
        if wrong:
            reason = "memberAlreadyExists" if add else "invalid"
            state = "is already" if add else "is not"
            raise GoogleError(400, reason, f"Resource '{wrong[0]}' {state} a member of '{path}'.")

        def finish() -> None:
            self.groups[path] = [*members, *named] if add else [each for each in members if each not in named]
            self.store.resources[path]["size"] = len(self.groups[path])

        return finish

    def members(self, group: str) -> Json:
        self.store.need(group)
        items = [
            {"instance": LINK + path, "status": self.store.resources[path]["status"]}
            for path in self.groups.get(group, [])
        ]
        told: Json = {"kind": "compute#instanceGroupsListInstances", "id": group}
        return told | ({"items": items} if items else {})

    def health_of(self, service: str, body: Json) -> Json:
        held = self.store.need(service)
        group = path_of(body["group"], service.split("/")[1])
        if group not in [path_of(each["group"]) for each in held.get("backends", [])]:
            raise not_found(group)
        states = [
            {
                "instance": LINK + path,
                "ipAddress": self.store.resources[path]["networkInterfaces"][0]["networkIP"],
                "healthState": "HEALTHY" if self.healthy.get(path) else "UNHEALTHY",
            }
            for path in self.groups.get(group, [])
        ]
        told: Json = {"kind": "compute#backendServiceGroupHealth"}
        return told | ({"healthStatus": states} if states else {})


def _interface(instance: Json, name: str) -> Json:
    for each in instance["networkInterfaces"]:
        if each["name"] == name:
            found: Json = each
            return found
    raise GoogleError(400, "invalid", f"Invalid value for field 'networkInterface': there is no '{name}'.")


def _require_fingerprint(held: Json, body: Json) -> None:
    if "fingerprint" not in body:
        raise GoogleError(400, "required", "Required field 'resource.fingerprint' not specified")
    if body["fingerprint"] != held["fingerprint"]:
        raise GoogleError(412, "conditionNotMet", "Invalid fingerprint.")
