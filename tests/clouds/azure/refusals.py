"""What Resource Manager says where it does not do what was asked, whatever it was."""

from __future__ import annotations

from tests.clouds.azure.store import Address, ArmError
from tests.clouds.knobs import Call


def expired() -> ArmError:
    return ArmError(
        401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than now."
    )


def forbidden(call: Call, action: str) -> ArmError:
    linked = action != call.needs[0]
    return ArmError(
        403,
        "LinkedAuthorizationFailed" if linked else "AuthorizationFailed",
        f"The client '{call.who}' with object id '{call.who}' does not have authorization to "
        f"perform action '{action}' over scope '{call.target}' or the scope is invalid. If access was "
        "recently granted, please refresh your credentials.",
    )


def not_found(address: Address) -> ArmError:
    if address.is_child:
        return ArmError(404, "NotFound", f"Resource {address} not found.")
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{address.type}/{address.name}' under resource group '{address.group}' was not found.",
    )


def busy(address: Address) -> ArmError:
    return ArmError(
        429,
        "AnotherOperationInProgress",
        f"Another operation on this or dependent resource is in progress. Resource: {address.top}.",
    )
