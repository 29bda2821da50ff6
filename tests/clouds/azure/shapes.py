"""Whether a body is what Azure's interface data describe: fields, types, values, who may write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SPECS: Final = Path(__file__).parents[1] / "specs" / "azure"
Json = dict[str, Any]


def specification(name: str) -> Json:
    found: Json = json.loads((SPECS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Shapes:
    """The named shapes of one service."""

    definitions: Mapping[str, Json]

    @classmethod
    def of(cls, *files: str) -> Shapes:
        return cls(
            {name: shape for file in files for name, shape in specification(file)["definitions"].items()}
        )

    def request_faults(self, shape: str, body: object, current: object = None) -> Iterator[str]:
        """What the service refuses; a read-only field is let pass where it says what is so already."""
        yield from self._faults(self.definitions[shape], body, current, "", answering=False)

    def answer_faults(self, shape: str, body: object) -> Iterator[str]:
        """What the service would never answer."""
        yield from self._faults(self.definitions[shape], body, None, "", answering=True)

    def _faults(
        self, shape: Json, value: object, current: object, path: str, answering: bool
    ) -> Iterator[str]:
        shape = self._resolved(shape)
        if "enum" in shape or "knownValues" in shape:
            yield from _value_faults(shape.get("enum") or shape["knownValues"], value, path)
        elif "const" in shape:
            if str(value).lower() != str(shape["const"]).lower():
                yield f"{path}: {value!r} where only {shape['const']!r} can be"
        elif shape["type"] == "object":
            yield from self._object_faults(shape, value, current, path, answering)
        elif shape["type"] == "array":
            yield from self._array_faults(shape, value, current, path, answering)
        else:
            yield from _plain_faults(shape, value, path)

    def _resolved(self, shape: Json) -> Json:
        while "$ref" in shape:
            shape = self.definitions[shape["$ref"].removeprefix("#/definitions/")]
        return shape

    def _object_faults(
        self, shape: Json, value: object, current: object, path: str, answering: bool
    ) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no object"
            return
        was = current if isinstance(current, dict) else {}
        fields: Json = shape["properties"]
        for name, inner in value.items():
            there = f"{path}.{name}" if path else name
            if name in fields:
                if inner is None and not answering:
                    continue
                if not answering and _has(fields[name], "readOnly") and inner != was.get(name):
                    yield f"{there}: only the service writes it"
                    continue
                yield from self._faults(fields[name], inner, was.get(name), there, answering)
            elif "additionalProperties" in shape:
                more = shape["additionalProperties"]
                yield from self._faults(more, inner, was.get(name), there, answering)
            else:
                yield f"Could not find member '{name}' on object of type '{shape['title']}'. Path '{there}'."
        for name, field in fields.items():
            # The name of a resource is in its address, and need not be in its body.
            if _has(field, "required") and not _has(field, "deployTimeConstant") and value.get(name) is None:
                yield f"{path}.{name}: it is required".lstrip(".")

    def _array_faults(
        self, shape: Json, value: object, current: object, path: str, answering: bool
    ) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no array"
            return
        was = {each["name"]: each for each in current or [] if isinstance(each, dict) and "name" in each}  # type: ignore[attr-defined]
        for place, each in enumerate(value):
            same = was.get(each.get("name")) if isinstance(each, dict) else None
            yield from self._faults(shape["items"], each, same, f"{path}[{place}]", answering)


def _has(shape: Json, flag: str) -> bool:
    return flag in shape.get("x-flags", ())


def _value_faults(values: list[str], value: object, path: str) -> Iterator[str]:
    if not isinstance(value, str) or value.lower() not in {each.lower() for each in values}:
        yield f"{path}: {value!r} is not one of {', '.join(values)}"


def _plain_faults(shape: Json, value: object, path: str) -> Iterator[str]:
    kind = shape["type"]
    right = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "any": True,
    }[kind]
    if not right:
        yield f"{path}: {value!r} is no {kind}"
        return
    if isinstance(value, int) and not shape.get("minimum", value) <= value <= shape.get("maximum", value):
        yield f"{path}: {value} is out of range"
