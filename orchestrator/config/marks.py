"""YAML with a line and column for everything in it, and without YAML's surprises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from orchestrator.model.errors import HafarmError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, and where; line and column count from 1."""

    line: int
    column: int
    where: str
    text: str

    def shown(self, name: str) -> str:
        place = f" {self.where}:" if self.where else ""
        return f"{name}:{self.line}:{self.column}:{place} {self.text}"


@dataclass(eq=False)
class ConfigRefused(HafarmError):
    """Everything that is wrong with a file, at once."""

    code: ClassVar[str] = "HF6001"
    name: str
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return "\n".join(problem.shown(self.name) for problem in self.problems)


@dataclass(slots=True)
class Marked:
    """Plain data, and where each part of it stands."""

    data: Any
    places: dict[Path, tuple[int, int]]

    def place(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Of the deepest part of this path that is in the file."""
        parts = tuple(path)
        while parts and parts not in self.places:
            parts = parts[:-1]
        return self.places.get(parts, (1, 1))

    def problem(self, path: Sequence[str | int], text: str) -> Problem:
        line, column = self.place(path)
        return Problem(line, column, ".".join(str(part) for part in path), text)


def parse(text: str, name: str) -> Marked:
    """The file's data; ConfigRefused for what is no YAML, or YAML that says two things at once."""
    try:
        node = yaml.compose(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigRefused(name, (Problem(line, column, "", fault.problem or "not YAML"),)) from fault
    except yaml.YAMLError as fault:
        raise ConfigRefused(name, (Problem(1, 1, "", f"not YAML: {fault}"),)) from fault
    if node is None:
        raise ConfigRefused(name, (Problem(1, 1, "", "the file is empty"),))
    places: dict[Path, tuple[int, int]] = {}
    problems: list[Problem] = []
    data = _walk(node, (), places, problems)
    if problems:
        raise ConfigRefused(name, tuple(sorted(problems)))
    return Marked(data, places)


def _walk(node: yaml.Node, path: Path, places: dict[Path, tuple[int, int]], problems: list[Problem]) -> Any:
    places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        return _walk_mapping(node, path, places, problems)
    if isinstance(node, yaml.SequenceNode):
        return [_walk(each, (*path, index), places, problems) for index, each in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _walk_mapping(
    node: yaml.MappingNode, path: Path, places: dict[Path, tuple[int, int]], problems: list[Problem]
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        where = ".".join(str(part) for part in path)
        if key is None or key == "<<":
            problems.append(Problem(line, column, where, "a key must be a plain word"))
            continue
        if key in data:
            problems.append(Problem(line, column, where, f"{key} is given twice"))
            continue
        places[(*path, key)] = (line, column)
        data[key] = _walk(value_node, (*path, key), places, problems)
    return data


def _scalar(node: yaml.ScalarNode) -> Any:
    """Text stays text: `on`, `1:30` and `0755` mean what is written, not what YAML 1.1 makes of it."""
    text = node.value
    if node.style is not None:
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and (digits == "0" or not digits.startswith("0")):
        return int(text)
    try:
        return float(text) if "." in text and digits.replace(".", "", 1).isdecimal() else text
    except ValueError:
        return text


class _PlainLoader(yaml.SafeLoader):
    """Composes only; no object is ever constructed from a tag."""
