"""What Compute Engine remembers: resources by their paths, operations that run, and how it was before."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import itertools
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.clouds.gcp.errors import GoogleError, OperationError, not_found
from tests.clouds.gcp.schemas import Json

LINK: Final = "https://www.googleapis.com/compute/v1/"
"""What the service's own links begin with, wherever it was asked."""
REMEMBERED: Final = 256
"""So many past states; a test that looks back further should be shorter."""
NOW: Final = "2026-12-01T00:00:00.000-00:00"
"""What the service says of every time: no test asks when something was."""


@dataclass
class Running:
    """An operation and what it will do at its end."""

    told: Json
    about: str
    finish: Callable[[], None]
    fails_with: str | None
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Store:
    """Everything of all projects."""

    resources: dict[str, Json] = field(default_factory=dict)
    operations: dict[str, Running] = field(default_factory=dict)
    requests: dict[tuple[str, str], str] = field(default_factory=dict)
    """Method and request identifier, and the operation that they began."""
    past: deque[tuple[float, dict[str, Json]]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    changed: Callable[[], None] = lambda: None
    """Told when what packets meet may have changed."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(4_000_000_001))

    def need(self, path: str, among: Mapping[str, Json] | None = None) -> Json:
        found = (self.resources if among is None else among).get(path)
        if found is None:
            raise not_found(path)
        return found

    def add(self, path: str, kind: str, body: Json) -> Json:
        """A new resource with what the service writes on each."""
        collection, name = path.rsplit("/", 1)
        made = copy.deepcopy(body) | {
            "kind": f"compute#{kind}",
            "id": str(next(self._numbers)),
            "name": name,
            "selfLink": LINK + path,
            "creationTimestamp": NOW,
        }
        words = collection.split("/")
        if words[2] in ("zones", "regions"):
            made[words[2].removesuffix("s")] = LINK + "/".join(words[:4])
        self.resources[path] = made
        return made

    def remember(self) -> None:
        """Before a request changes anything."""
        self.past.append((time.monotonic(), copy.deepcopy(self.resources)))

    def before(self, changes: int, seconds: float) -> Mapping[str, Json]:
        """The resources so many accepted requests ago, or so long ago where a time is given."""
        if not self.past:
            return self.resources
        if not seconds:
            return self.past[-min(changes, len(self.past))][1]
        then = time.monotonic() - seconds
        return next((state for stamp, state in self.past if stamp > then), self.resources)

    def require_ready(self, about: str) -> None:
        """What is being changed is not ready for another change."""
        if any(each.about == about and not each.over.is_set() for each in self.operations.values()):
            raise GoogleError(400, "resourceNotReady", f"The resource '{about}' is not ready")

    def begin(
        self, kind: str, about: str, who: str, finish: Callable[[], None], seconds: float, error: str | None
    ) -> Json:
        """Start an operation where the thing is: of a zone, of a region or of the whole project."""
        self.require_ready(about)
        words = about.split("/")
        place = "/".join(words[:4] if words[2] in ("zones", "regions") else words[:3])
        path = f"{place}/operations/operation-{uuid.uuid4().hex}"
        told: Json = {
            "kind": "compute#operation",
            "id": str(next(self._numbers)),
            "name": path.rsplit("/", 1)[1],
            "operationType": kind,
            "targetLink": LINK + about,
            "status": "RUNNING",
            "progress": 0,
            "user": who,
            "insertTime": NOW,
            "startTime": NOW,
            "selfLink": LINK + path,
        }
        if words[2] in ("zones", "regions"):
            told[words[2].removesuffix("s")] = LINK + place
        if about in self.resources:
            told["targetId"] = self.resources[about]["id"]
        running = Running(told, about, finish, error)
        self.operations[path] = running
        answered = copy.deepcopy(told)
        asyncio.get_running_loop().call_later(seconds, self._end, running)
        return answered

    def hasten(self) -> None:
        """Everything that runs is over now, as if its time had passed."""
        for running in list(self.operations.values()):
            self._end(running)

    def _end(self, running: Running) -> None:
        if running.over.is_set():
            return
        try:
            if running.fails_with is not None:
                status = 500 if running.fails_with == "INTERNAL_ERROR" else 403
                raise OperationError(
                    running.fails_with, f"The operation on '{running.about}' failed.", status
                )
            running.finish()
        except OperationError as fault:
            running.told["error"] = {"errors": [{"code": fault.code, "message": fault.message}]}
            running.told["httpErrorStatusCode"] = fault.status
            running.told["httpErrorMessage"] = fault.code.replace("_", " ")
        running.told |= {"status": "DONE", "progress": 100, "endTime": NOW}
        running.over.set()
        self.changed()


def fingerprint(of: Json) -> str:
    """It changes with the thing, and is base64 as the service's own."""
    bare = {name: value for name, value in of.items() if name != "fingerprint"}
    digest = hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def path_of(reference: str, project: str = "") -> str:
    """A reference as a path; it may be a whole link to any host, or begin at the project or below it."""
    if "://" in reference:
        reference = reference.split("/v1/", 1)[-1]
    if reference.startswith("projects/"):
        return reference
    return f"projects/{project}/{reference}"
