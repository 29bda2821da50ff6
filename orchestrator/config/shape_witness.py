"""The shape of `witness:`: each kind of register with the keys that it needs."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.config.shape_base import Directory, Shape

PREFIX_MAX = 512
"""With the names behind it a key stays below what every store bears (1,024 bytes)."""


def _prefix(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("a prefix is printable ASCII without spaces")
    if not value.endswith("/") or "//" in value or len(value) > PREFIX_MAX:
        raise ValueError("a prefix ends with one /, such as hafarm/")
    return value


def _base_url(value: str) -> str:
    """https://HOST:PORT, or http where nobody is between; empty: none."""
    if not value:
        return value
    parts = urlsplit(value)
    try:
        _ = parts.port
    except ValueError as fault:
        raise ValueError(f"{value}: {fault}") from fault
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("https://HOST:PORT is needed")
    if parts.username or parts.password:
        raise ValueError("a URL holds no password: everybody reads this file")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("https is needed: whoever is between could grant what he likes")
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Prefix = Annotated[str, BeforeValidator(_prefix)]


class WitnessProcess(Shape):
    kind: Literal["witness"] = "witness"
    url: str

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        host, colon, port = value.removeprefix("https://").rstrip("/").rpartition(":")
        if not value.startswith("https://") or not colon or not host or not port.isdecimal():
            raise ValueError("the witness is reached as https://HOST:PORT")
        return value


class Etcd(Shape):
    kind: Literal["etcd"]
    endpoints: Annotated[list[str], Field(min_length=1, max_length=9)]
    prefix: Prefix = "hafarm/"
    ca: Directory = ""
    cert: Directory = ""
    key: Directory = ""
    user: str = ""
    password_file: Directory = ""

    @field_validator("endpoints")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        urls = [_base_url(one) for one in value]
        for one in urls:
            if urlsplit(one).path:
                raise ValueError(f"{one}: only https://HOST:PORT")
            if urls.count(one) > 1:
                raise ValueError(f"{one} is given twice")
        return urls

    @model_validator(mode="after")
    def _pairs(self) -> Etcd:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file go together")
        return self


class _Bucket(Shape):
    """What all clouds' stores have in common."""

    prefix: Prefix = "hafarm/"
    endpoint: str = ""
    ca: Directory = ""

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        return _base_url(value)


class S3(_Bucket):
    kind: Literal["s3"]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{2,32}$")]


class Gcs(_Bucket):
    kind: Literal["gcs"]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$")]


class Blob(_Bucket):
    kind: Literal["blob"]
    account: Annotated[str, Field(pattern=r"^[a-z0-9]{3,24}$")]
    container: Annotated[str, Field(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")]


def _with_kind(value: Any) -> Any:
    """A witness process needs not say what it is."""
    return {"kind": "witness", **value} if isinstance(value, dict) else value


KINDS: dict[str, type[Shape]] = {"witness": WitnessProcess, "etcd": Etcd, "s3": S3, "gcs": Gcs, "blob": Blob}
Witness = Annotated[
    Annotated[WitnessProcess | Etcd | S3 | Gcs | Blob, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
