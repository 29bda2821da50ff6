"""The process that speaks to a cloud's store for an agent: it can be killed at any moment, and decides not.

    python -m orchestrator.providers.registers.worker DESCRIPTOR

JSON lines over the socket that it was born with: first the place, then questions. It ends with the agent.
"""

from __future__ import annotations

import base64
import importlib
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from orchestrator.host.lines import encode
from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import RegisterRefused, RegisterUnreachable
from orchestrator.providers.process import READY, inbox
from orchestrator.providers.registers.store import ExtraMissing, Held, StoreRefused

KINDS: Final[Mapping[str, tuple[str, str]]] = {
    # Kind: module, and the extra of this package that has its library.
    "s3": ("orchestrator.providers.registers.s3", "aws"),
    "gcs": ("orchestrator.providers.registers.gcs", "gcp"),
    "blob": ("orchestrator.providers.registers.blob", "azure"),
}
QUESTIONS_MAX: Final = 8
"""At once: a node asks one question per mirror, and the self-test's beside them."""


class Bucket(Protocol):
    """One kind of store, in this process, for all its threads."""

    def get(self, key: str) -> Held | None: ...

    def put(self, key: str, content: bytes, expected: Held | None) -> Held | None: ...


class Worker:
    """Questions in, answers out, each in a thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._threads = ThreadPoolExecutor(QUESTIONS_MAX, "question")
        self._bucket: Bucket | None = None

    def take(self, message: Mapping[str, Any]) -> None:
        """The place, or a question."""
        if self._bucket is None:
            # The library is loaded and its client made now, not when a role is taken.
            self._say({"event": READY, **_answer(lambda: self._open(message))})
        else:
            self._threads.submit(self._carry_out, self._bucket, message)

    def _open(self, message: Mapping[str, Any]) -> None:
        place = BucketConfig(**message["place"])
        module, extra = KINDS[place.kind]
        try:
            made = importlib.import_module(module)
        except ImportError as fault:
            why = f"{fault}; pip install 'hafarm[{extra}]' on this node, then restart its agent"
            raise ExtraMissing(place.where, why) from fault
        self._bucket = made.open_bucket(place, float(message["timeout_s"]))

    def _carry_out(self, bucket: Bucket, message: Mapping[str, Any]) -> None:
        def deed() -> Held | None:
            if message["do"] == "get":
                return bucket.get(message["key"])
            return bucket.put(message["key"], base64.b64decode(message["content"]), held(message["expected"]))

        self._say({"id": message["id"], **_answer(deed)})

    def _say(self, message: Mapping[str, Any]) -> None:
        with self._sending:
            self._connection.sendall(encode(message))


def _answer(deed: Callable[[], Held | None]) -> dict[str, Any]:
    """What came of it, as it travels."""
    try:
        return {"ok": as_dict(deed())}
    except ExtraMissing as fault:
        return {"missing": fault.why}
    except StoreRefused as fault:
        return {"refused": fault.why, "fix": fault.fix}
    except RegisterRefused as fault:
        return {"refused": fault.why, "fix": ""}
    except RegisterUnreachable as fault:
        return {"unreachable": fault.why}
    except Exception as fault:
        # What we or the library did not foresee: it may have left.
        return {"unreachable": f"{type(fault).__name__}: {fault}"}


def as_dict(found: Held | None) -> dict[str, str] | None:
    """As it travels."""
    return None if found is None else {"content": base64.b64encode(found.content).decode(), "tag": found.tag}


def held(data: Mapping[str, str] | None) -> Held | None:
    """As it was before it travelled."""
    return Held(base64.b64decode(data["content"]), data["tag"]) if data else None


def main() -> None:
    """Until the agent is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    messages = inbox(connection)
    worker = Worker(connection)
    while True:
        worker.take(messages.get())


if __name__ == "__main__":
    main()
