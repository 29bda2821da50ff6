"""Cloud DNS: changes that are done whole or not at all."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.clouds.gcp.errors import GoogleError, not_found
from tests.clouds.gcp.schemas import Json
from tests.clouds.gcp.store import NOW, Store


@dataclass
class Zones:
    """The zones; each is a resource whose `rrsets` are in the store beside it."""

    store: Store
    done: dict[str, list[Json]] = field(default_factory=dict)
    """Zone to its changes, the first one first."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, project: str, zone: str, name: str) -> None:
        """A zone that is there at once, for a test's own hands."""
        path = f"projects/{project}/managedZones/{zone}"
        told = {"kind": "dns#managedZone", "name": zone, "dnsName": name, "id": str(next(self._numbers))}
        self.store.resources[path] = {"zone": told, "sets": []}

    def answer(
        self,
        resource: str,
        verb: str,
        words: Mapping[str, str],
        query: Mapping[str, str],
        body: Json,
        among: Mapping[str, Json],
    ) -> Json:
        project = f"projects/{words['project']}/managedZones"
        if (resource, verb) == ("managedZones", "list"):
            zones = [each["zone"] for path, each in among.items() if path.startswith(f"{project}/")]
            return {"kind": "dns#managedZonesListResponse", "managedZones": zones}
        path = f"{project}/{words['managedZone']}"
        held = self.store.need(path, among)
        if resource == "managedZones":
            zone: Json = held["zone"]
            return zone
        if resource == "resourceRecordSets":
            return _sets(held["sets"], verb, words, query)
        if verb == "create":
            return self._change(path, body)
        changes = self.done.get(path, [])
        if verb == "list":
            return {"kind": "dns#changesListResponse", "changes": changes}
        for each in changes:
            if each["id"] == words["changeId"]:
                return each
        raise not_found(f"{path}/changes/{words['changeId']}")

    def _change(self, path: str, body: Json) -> Json:
        sets = copy.deepcopy(self.store.resources[path]["sets"])
        for place, each in enumerate(body.get("deletions", [])):
            found = [one for one in sets if _key(one) == _key(each)]
            if not found:
                raise GoogleError(
                    404,
                    "notFound",
                    f"The 'entity.change.deletions[{place}]' resource named '{each['name']} "
                    f"({each['type']})' does not exist.",
                )
            if (found[0].get("ttl"), found[0]["rrdatas"]) != (each.get("ttl"), each["rrdatas"]):
                raise GoogleError(
                    412, "conditionNotMet", f"Precondition not met for 'entity.change.deletions[{place}]'"
                )
            sets.remove(found[0])
        for place, each in enumerate(body.get("additions", [])):
            if any(_key(one) == _key(each) for one in sets):
                raise GoogleError(
                    409,
                    "alreadyExists",
                    f"The resource 'entity.change.additions[{place}]' named '{each['name']} "
                    f"({each['type']})' already exists",
                )
            sets.append({"kind": "dns#resourceRecordSet"} | each)
        self.store.remember()
        self.store.resources[path]["sets"] = sets
        made = {"kind": "dns#change", "id": str(next(self._numbers)), "startTime": NOW, "status": "done"}
        change = copy.deepcopy(body) | made
        self.done.setdefault(path, []).append(change)
        # The servers do not answer with it yet when the change is accepted.
        return change | {"status": "pending"}


def _key(one: Json) -> tuple[str, str]:
    return one["name"], one["type"]


def _sets(sets: list[Json], verb: str, words: Mapping[str, str], query: Mapping[str, str]) -> Json:
    name, kind = (words["name"], words["type"]) if verb == "get" else (query.get("name"), query.get("type"))
    found = [each for each in sets if name in (None, each["name"]) and kind in (None, each["type"])]
    if verb == "list":
        return {"kind": "dns#resourceRecordSetsListResponse", "rrsets": found}
    if not found:
        raise not_found(f"{name}/{kind}")
    return found[0]
