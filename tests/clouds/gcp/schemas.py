"""Which method of Google's discovery data a request is, and whether bodies are what they describe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.clouds.gcp.errors import GoogleError

SPECS: Final = Path(__file__).parents[1] / "specs" / "gcp"
Json = dict[str, Any]
_ANYWHERE = """
$alt $.xgafv access_token alt callback fields key oauth_token prettyPrint quotaUser uploadType upload_protocol
userIp
"""
ANYWHERE: Final = frozenset(_ANYWHERE.split())
"""Query parameters of every method."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one service."""

    id: str
    verb: str
    pattern: re.Pattern[str]
    parameters: Mapping[str, Json]
    request: str | None
    response: str | None


@dataclass(frozen=True)
class Service:
    """What one discovery document says."""

    schemas: Mapping[str, Json]
    methods: tuple[Method, ...]

    @classmethod
    def of(cls, file: str) -> Service:
        told = json.loads((SPECS / f"{file}.json").read_text(encoding="utf-8"))
        prefix = f"/{told['servicePath']}"
        methods = [
            _method(prefix, each)
            for resource in told["resources"].values()
            for each in resource["methods"].values()
        ]
        return cls(told["schemas"], tuple(methods))

    def understood(self, verb: str, path: str, query: Mapping[str, str]) -> tuple[Method, Mapping[str, str]]:
        """The method, and the words of its path."""
        fitting = [(each, found) for each in self.methods if (found := each.pattern.fullmatch(path))]
        mine = [(each, found) for each, found in fitting if each.verb == verb]
        if not mine:
            raise GoogleError(404, "notFound", f"The requested URL {path} was not found on this server.")
        method, found = mine[0]
        for name, text in query.items():
            if name in ANYWHERE:
                continue
            if method.parameters.get(name, {}).get("location") != "query":
                raise GoogleError(
                    400,
                    "invalid",
                    f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.',
                )
            fault = _query_fault(method.parameters[name], text)
            if fault:
                raise GoogleError(400, "invalidParameter", f"Invalid value for field '{name}': {fault}")
        for name, parameter in method.parameters.items():
            if parameter.get("required") and parameter["location"] == "query" and name not in query:
                raise GoogleError(400, "required", f"Required field '{name}' not specified")
        return method, found.groupdict()

    def request_faults(self, method: Method, body: object, current: object = None) -> Iterator[str]:
        """What the service refuses; an output-only field passes where it says what is so already."""
        assert method.request is not None
        # What must be there is told of a method; in what changes a part of a thing nothing must.
        yield from self._faults({"$ref": method.request}, body, current, "", method.id)

    def answer_faults(self, schema: str, body: object) -> Iterator[str]:
        yield from self._faults({"$ref": schema}, body, None, "", None)

    def _faults(
        self, schema: Json, value: object, current: object, path: str, method: str | None
    ) -> Iterator[str]:
        while "$ref" in schema:
            schema = self.schemas[schema["$ref"]]
        kind = schema.get("type", "any")
        if kind == "array":
            if not isinstance(value, list):
                yield f"Invalid value at '{path}': {value!r} is no array"
                return
            for place, each in enumerate(value):
                yield from self._faults(schema["items"], each, None, f"{path}[{place}]", method)
        elif kind == "object":
            yield from self._object_faults(schema, value, current, path, method)
        elif kind != "any":
            yield from _plain_faults(schema, value, path)

    def _object_faults(
        self, schema: Json, value: object, current: object, path: str, method: str | None
    ) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"Invalid value at '{path}': {value!r} is no object"
            return
        fields: Json = schema.get("properties", {})
        was = current if isinstance(current, dict) else {}
        for name, inner in value.items():
            there = f"{path}.{name}" if path else name
            if name not in fields:
                if "additionalProperties" not in schema:
                    said = f"Unknown name \"{name}\" at '{path}': Cannot find field."
                    yield f"Invalid JSON payload received. {said}"
                else:
                    more = schema["additionalProperties"]
                    yield from self._faults(more, inner, was.get(name), there, method)
            elif method and fields[name].get("readOnly") and inner != was.get(name):
                yield f"Invalid value for field '{there}': it is output only"
            else:
                yield from self._faults(fields[name], inner, was.get(name), there, method)
        for name, field in fields.items():
            needed = method in field.get("annotations", {}).get("required", ())
            if needed and name not in value and "default" not in field and name not in DEFAULTS:
                yield f"Required field 'resource.{name}' not specified"


DEFAULTS: Final = frozenset({"priority"})
"""What the service fills in although its data call it required."""


def _method(prefix: str, told: Json) -> Method:
    path = re.sub(r"\\\{\+?(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(prefix + told["path"]))
    return Method(
        told["id"],
        told["httpMethod"],
        re.compile(path),
        told["parameters"],
        told.get("request", {}).get("$ref"),
        told.get("response", {}).get("$ref"),
    )


def _query_fault(parameter: Json, text: str) -> str:
    if parameter["type"] == "boolean" and text not in ("true", "false"):
        return f"'{text}' is no boolean"
    if parameter["type"] == "integer" and not re.fullmatch(r"-?\d+", text):
        return f"'{text}' is no number"
    if "enum" in parameter and text not in parameter["enum"]:
        return f"'{text}' is not one of {', '.join(parameter['enum'])}"
    return ""


def _plain_faults(schema: Json, value: object, path: str) -> Iterator[str]:
    kind = schema["type"]
    right = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }[kind]
    if not right:
        yield f"Invalid value at '{path}': {value!r} is no {kind}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"Invalid value for field '{path}': '{value}' is not one of {', '.join(schema['enum'])}"
    elif "pattern" in schema and not re.fullmatch(schema["pattern"], str(value)):
        yield f"Invalid value for field '{path}': '{value}' does not match {schema['pattern']}"
    elif schema.get("format") in ("uint64", "int64") and kind == "string" and not str(value).isdigit():
        yield f"Invalid value at '{path}': '{value}' is no number in text"
    elif schema.get("format") == "uint32" and int(str(value)) < 0:
        yield f"Invalid value at '{path}': {value} is negative"
