"""Requests to AWS: short time-outs, and each that changes something asks for leave and is sent once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import boto3
import botocore.config
import botocore.exceptions
import botocore.parsers

from orchestrator.providers.faults import (
    PlaceWrong,
    ProviderFault,
    ProviderRefused,
    ProviderUnreachable,
)
from orchestrator.providers.sending import ask_for_leave

NAME: Final = "AWS"
CONNECT_S: Final = 2
READ_S: Final = 5
"""The library's own is a minute each: longer than a take-over may take."""
SESSION_S: Final = 3600
RENEW_BEFORE_S: Final = 300
"""A role that was taken on is taken on again so long before it ends."""
READS: Final = ("Describe", "Get", "List", "AssumeRole")
"""Names of requests that change nothing begin so."""
TRIAL: Final = "DryRun=true"
"""In the body of one that only asks whether it would be permitted."""
PUT_OFF: Final = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "Unavailable",
        "RequestTimeout",
        "PriorRequestNotComplete",
    }
)
EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
DENIED: Final = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
OUTRUN: Final = frozenset(
    {
        # Somebody else changed it between our look and our request: look again.
        "InvalidAssociationID.NotFound",
        "Resource.AlreadyAssociated",
        "RouteAlreadyExists",
        "InvalidRoute.NotFound",
        "PrivateIpAddressInUse",
        "InvalidIPAddress.InUse",
        "ResourceInUse",
        "IncorrectInstanceState",
        "InvalidChangeBatch",
    }
)
NOT_THERE: Final = (".NotFound", "NoSuchHostedZone")


def before_send(request: Any, event_name: str, **_: Any) -> None:
    """Of the library's `before-send`, directly before the socket: no change leaves without."""
    name = event_name.rpartition(".")[2]
    body = request.body or ""
    if name.startswith(READS) or TRIAL in (
        body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    ):
        return
    ask_for_leave(name)


class Account:
    """The clients of one region, for this node's own role and for those that it takes on."""

    def __init__(self, region: str) -> None:
        self.region = region
        self._making = threading.Lock()
        self._clients: dict[tuple[str, str], tuple[Any, float]] = {}

    def client(self, service: str, role: str = "") -> Any:
        """Made once; one of a role that was taken on is made anew before that ends."""
        with self._making:
            made, until = self._clients.get((service, role), (None, 0.0))
            if made is None or time.monotonic() > until:
                made, until = self._make(service, role)
                self._clients[service, role] = made, until
            return made

    def forget(self) -> None:
        """The credentials are not good any more: the next request reads them again."""
        with self._making:
            self._clients.clear()

    def _make(self, service: str, role: str) -> tuple[Any, float]:
        keys: dict[str, str] = {}
        until = float("inf")
        if role:
            sts = boto3.session.Session(region_name=self.region).client("sts", config=_config())
            words = {"RoleArn": role, "RoleSessionName": "hafarm", "DurationSeconds": SESSION_S}
            given = call(lambda: sts.assume_role(**words), "AssumeRole", self)["Credentials"]
            keys = {
                "aws_access_key_id": given["AccessKeyId"],
                "aws_secret_access_key": given["SecretAccessKey"],
                "aws_session_token": given["SessionToken"],
            }
            until = time.monotonic() + SESSION_S - RENEW_BEFORE_S
        session = boto3.session.Session(region_name=self.region, **keys)
        made = session.client(service, config=_config())
        made.meta.events.register("before-send", before_send)
        return made, until


def _config() -> botocore.config.Config:
    return botocore.config.Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=16,
    )


def call(request: Callable[[], Any], what: str, account: Account) -> Any:
    """One request; its answer, or a fault in our words."""
    try:
        return request()
    except ProviderFault:
        raise
    except botocore.exceptions.ClientError as fault:
        raise _understood(fault, what, account) from fault
    except botocore.exceptions.NoCredentialsError as fault:
        why = "this node has no credentials: give its instance a role, or the agent AWS_* variables"
        raise ProviderRefused(NAME, what, why) from fault
    except (botocore.exceptions.PartialCredentialsError, botocore.exceptions.NoRegionError) as fault:
        raise ProviderRefused(NAME, what, str(fault)) from fault
    except botocore.exceptions.CredentialRetrievalError as fault:
        account.forget()
        raise ProviderUnreachable(NAME, what, str(fault)) from fault
    except botocore.exceptions.ParamValidationError as fault:
        raise PlaceWrong("hafarm.yaml", str(fault).replace("\n", " "), "correct it") from fault
    except (botocore.exceptions.BotoCoreError, botocore.parsers.ResponseParserError, OSError) as fault:
        raise ProviderUnreachable(NAME, what, str(fault)) from fault


def code_of(fault: ProviderFault) -> str:
    """AWS' own code behind a fault of ours, or nothing."""
    cause = fault.__cause__
    if isinstance(cause, botocore.exceptions.ClientError):
        return str(cause.response.get("Error", {}).get("Code", ""))
    return ""


def _understood(fault: botocore.exceptions.ClientError, what: str, account: Account) -> ProviderFault:
    error = fault.response.get("Error", {})
    code, text = str(error.get("Code", "")), str(error.get("Message", ""))
    status = int(fault.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    why = f"{code}: {text}" if text else code
    if code in EXPIRED:
        account.forget()
        return ProviderUnreachable(NAME, what, f"the credentials had expired ({why})")
    if code in PUT_OFF or code in OUTRUN or status >= 500 or status == 429:
        return ProviderUnreachable(NAME, what, why)
    if code in DENIED:
        return ProviderRefused(NAME, what, f"this node's role lacks the right to it ({why})")
    if any(mark in code for mark in NOT_THERE) or code.endswith("NotFound"):
        return PlaceWrong(what, f"not in region {account.region} ({why})", "correct the name, or `region`")
    return ProviderRefused(NAME, what, why)
