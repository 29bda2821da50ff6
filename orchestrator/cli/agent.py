"""The agent at the other end of the Unix socket."""

from __future__ import annotations

import json
import time
from typing import Any

from orchestrator.cli.options import SOCKET, Wish
from orchestrator.cli.tell import Failure
from orchestrator.host import http
from orchestrator.model.codes import CONFLICT, FORBIDDEN, REFUSED, UNREACHABLE

ANSWER_TIMEOUT_S = 10.0
"""The agent answers within milliseconds; one that is silent for so long is stuck."""
POLL_S = 10.0
"""An operation is followed in long polls of this length, so that Ctrl-C and progress are soon felt."""
EXITS = {401: FORBIDDEN, 403: FORBIDDEN, 409: REFUSED, 412: CONFLICT, 503: UNREACHABLE, 504: UNREACHABLE}


class Agent:
    """This node's agent."""

    def __init__(self, wish: Wish) -> None:
        self._path = wish.socket or SOCKET
        if wish.cluster is not None:
            self._check_cluster(wish.cluster)

    def _check_cluster(self, wanted: str) -> None:
        found = self.get("/status").get("cluster")
        if found != wanted:
            raise Failure("HF6003", f"the agent at {self._path} belongs to cluster {found}, not {wanted}")

    def get(self, path: str, wait_s: float = 0.0) -> dict[str, Any]:
        """The answer; Failure when there is none, or when it is a refusal."""
        return self._ask("GET", path, None, wait_s)

    def post(self, path: str, body: dict[str, Any], wait_s: float = 0.0) -> dict[str, Any]:
        return self._ask("POST", path, body, wait_s)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, wait_s: float) -> dict[str, Any]:
        try:
            status, answer = http.ask(self._path, method, f"/api/v1{path}", body, ANSWER_TIMEOUT_S + wait_s)
        except OSError as fault:
            why = str(fault) or type(fault).__name__
            raise Failure("HF6002", f"no agent answers at {self._path}", why) from fault
        return _understood(status, answer)

    def act(self, module: str, body: dict[str, Any]) -> dict[str, Any]:
        """Order something; the operation as it stands at once."""
        from urllib.parse import quote  # late: who only looks needs none of it

        wanted = {key: value for key, value in body.items() if value not in (None, False)}
        accepted = self.post(f"/modules/{quote(module, safe='')}/actions", wanted)
        return self.get(f"/operations/{accepted['op']}")

    def follow(self, operation: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The operation when it is over, or as it stands after this long."""
        end = time.monotonic() + limit_s
        while operation["state"] == "running" and (left := end - time.monotonic()) > 0:
            wait_s = min(left, POLL_S)
            operation = self.get(f"/operations/{operation['id']}?wait={wait_s:.3f}", wait_s)
        return operation


def _understood(status: int, answer: bytes) -> dict[str, Any]:
    try:
        data = json.loads(answer)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        text = answer[:200].decode(errors="replace")
        raise Failure("HF6008", f"the agent answered {status}: {text}", exit=EXITS.get(status))
    if status >= 400:
        raise refusal(data.get("error") or {}, EXITS.get(status))
    return data


def refusal(error: dict[str, Any], exit_code: int | None = None) -> Failure:
    """An error of the API as a failure of the command; a refusal that protects data exits with 6."""
    return Failure(
        str(error.get("code") or "HF1000"),
        str(error.get("message") or "refused without a reason"),
        str(error.get("why") or ""),
        str(error.get("fix") or ""),
        REFUSED if error.get("safety") else exit_code if error.get("code") is None else None,
    )
