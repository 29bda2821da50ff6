"""S3 as a store, in the worker: If-Match and If-None-Match, and no request is ever sent twice."""

from __future__ import annotations

from typing import Any, Final

import boto3
import botocore.config
import botocore.exceptions

from orchestrator.model.config import BucketConfig
from orchestrator.model.errors import RegisterUnreachable
from orchestrator.providers.registers.store import Held, StoreRefused

MOVED: Final = frozenset(
    {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404", "412", "409"}
)
"""Of a conditional write: something else stands, or a write that was under way was faster."""
FIXES: Final = {
    "NoSuchBucket": "make the bucket, or correct `bucket`",
    "InvalidBucketName": "correct `bucket`",
    "AccessDenied": "let this node's role s3:GetObject and s3:PutObject below the prefix, and s3:ListBucket "
    "on the bucket, without which a key that is not there yet is denied too",
    "403": "let this node's role s3:GetObject, s3:PutObject and s3:ListBucket",
    "InvalidAccessKeyId": "give this node other credentials",
    "SignatureDoesNotMatch": "give this node other credentials",
    "InvalidToken": "give this node other credentials",
    "ExpiredToken": "give this node credentials that renew themselves, such as an instance's role",
    "RequestTimeTooSkewed": "set this node's clock",
    "PermanentRedirect": "correct `region`: the bucket is in another one",
    "301": "correct `region`: the bucket is in another one",
    "IllegalLocationConstraintException": "correct `region`: the bucket is in another one",
    "AuthorizationHeaderMalformed": "correct `region`: the bucket is in another one",
    "NotImplemented": "use a store that knows conditional writes",
    "InvalidArgument": "",
    "InvalidRequest": "",
    "MethodNotAllowed": "",
}
"""Codes of a request that was understood and not carried out. Whatever else fails may have been."""


def open_bucket(place: BucketConfig, timeout_s: float) -> S3:
    """Credentials are found as everywhere on AWS: environment, files, the instance's role."""
    return S3(place, timeout_s)


class S3:
    """One bucket, or one of an imitation at `endpoint`."""

    def __init__(self, place: BucketConfig, timeout_s: float) -> None:
        self._place = place
        config = botocore.config.Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # An imitation has seldom a name for each bucket, or checksums that are not asked for.
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=16,
        )
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                region_name=place.region or None,
                endpoint_url=place.endpoint or None,
                verify=place.ca or None,
                config=config,
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as fault:
            raise StoreRefused(place.where, str(fault), "correct region and endpoint") from fault

    def get(self, key: str) -> Held | None:
        """S3 reads what was written last, everywhere."""
        try:
            found = self._client.get_object(Bucket=self._place.bucket, Key=self._place.prefix + key)
            return Held(found["Body"].read(), found["ETag"])
        except botocore.exceptions.ClientError as fault:
            if _code(fault) == "NoSuchKey":
                return None
            raise self._failed(fault) from fault
        except (botocore.exceptions.BotoCoreError, OSError) as fault:
            raise self._failed(fault) from fault

    def put(self, key: str, content: bytes, expected: Held | None) -> Held | None:
        condition = {"IfMatch": expected.tag} if expected else {"IfNoneMatch": "*"}
        try:
            done = self._client.put_object(
                Bucket=self._place.bucket,
                Key=self._place.prefix + key,
                Body=content,
                ContentType="application/json",
                **condition,
            )
            return Held(content, done["ETag"])
        except botocore.exceptions.ClientError as fault:
            if _code(fault) in MOVED:
                return None
            raise self._failed(fault) from fault
        except (botocore.exceptions.BotoCoreError, OSError) as fault:
            raise self._failed(fault) from fault

    def _failed(self, fault: Exception) -> StoreRefused | RegisterUnreachable:
        where = self._place.where
        match fault:
            case botocore.exceptions.ClientError() if _code(fault) in FIXES:
                return StoreRefused(where, _told(fault), FIXES[_code(fault)])
            case botocore.exceptions.NoCredentialsError() | botocore.exceptions.PartialCredentialsError():
                return StoreRefused(where, str(fault), "give this node a role, or credentials")
            case botocore.exceptions.ParamValidationError():
                return StoreRefused(where, str(fault), "correct `bucket`; boto3 1.36 or later is needed")
            case botocore.exceptions.CredentialRetrievalError() | botocore.exceptions.ProfileNotFound():
                return StoreRefused(where, str(fault), "give this node a role, or credentials")
            case _:
                return RegisterUnreachable(where, str(fault))


def _code(fault: botocore.exceptions.ClientError) -> str:
    return str(fault.response.get("Error", {}).get("Code", ""))


def _told(fault: botocore.exceptions.ClientError) -> str:
    error = fault.response.get("Error", {})
    return f"{error.get('Code', '')}: {error.get('Message', '')}".strip(": ")
