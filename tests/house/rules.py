"""What every source file must keep, as functions from source text to faults, themselves tested."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PURE: Final = ("model", "cluster", "farm", "mirror", "node")
"""Rooms that decide: no clock, socket, file, thread or chance."""

FLOORS: Final[dict[str, tuple[str, ...]]] = {
    "model": (),
    "cluster": ("model",),
    # The restart budget is the cluster's word, and a farm and a mirror keep one.
    "farm": ("model", "cluster"),
    "mirror": ("model", "cluster"),
    "node": ("model", "cluster", "farm", "mirror"),
    # A farm's plane is a value: who loads it into the kernel compares two of them.
    "host": ("model", "farm"),
    # The register's client speaks the register's rules, which are in `cluster`.
    "providers": ("model", "cluster", "host"),
    "config": ("model",),
    "setup": ("model", "host"),
    "replicator": ("model", "mirror", "host"),
    "pulse": ("model", "cluster", "host"),
    "witness": ("model", "cluster", "host"),
    "agent": ("model", "cluster", "farm", "mirror", "node", "host", "providers", "config", "setup"),
    "web": ("model",),
    # Of the host only how one asks over a Unix socket.
    "cli": ("model", "host", "config", "setup", "node"),
    "demo": ("model", "config", "setup", "host"),
}
"""Room: the rooms that it may import, beside itself."""

_PURE_LIBRARY = """
__future__ bisect collections contextlib copy dataclasses enum fnmatch functools hashlib heapq hmac ipaddress
itertools json math operator re string struct types typing zlib
"""
PURE_LIBRARY: Final = frozenset(_PURE_LIBRARY.split())
"""Of the standard library, what has no clock, no chance and no outside."""

BANNED_CALLS: Final = {
    "yaml.load": "it constructs objects: compose, or safe_load",
    "pickle.loads": "it runs whatever the sender wants",
    "pickle.load": "it runs whatever the sender wants",
    "marshal.loads": "it crashes on what it does not know",
    "os.system": "it runs a shell",
    "os.popen": "it runs a shell",
    "eval": "it runs whatever it is given",
    "exec": "it runs whatever it is given",
    "tempfile.mktemp": "somebody else can be faster",
    "ssl._create_unverified_context": "it believes everybody",
}
LINES_MAX: Final = 500
"""Files of 100 to 300 lines feel right; one of more than this has more than one idea."""
# An index or mirror of packages is the business of the machine that installs, not of a file here.
REGISTRY: Final = re.compile(
    r"\b(?:pypi\.(?:org|io)|python[h]osted\.org|registry\.npmjs\.org|npmjs\.com|crates\.io|proxy\.golang\.org|"
    r"deb\.debian\.org|rubygems\.org|docker\.io|ghcr\.io|quay\.io|index-url|artifactory|nexus\.)\b"
)


def room_of(path: Path) -> str:
    """Of a file below orchestrator/: its first folder, or `node` for node.py."""
    parts = path.relative_to("orchestrator").parts
    return parts[0].removesuffix(".py")


def import_faults(room: str, source: str) -> Iterator[str]:
    """Imports that run up, sideways, or out of a pure room."""
    for line, name in _imported(ast.parse(source)):
        first, _, rest = name.partition(".")
        if first != "orchestrator":
            if room in PURE and first not in PURE_LIBRARY and not name.startswith("collections"):
                yield f"line {line}: {room} is pure and imports {name}"
            continue
        target = rest.partition(".")[0]
        if target and target != room and target not in FLOORS[room]:
            yield f"line {line}: {room} must not import {target}"


def _imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere in the file, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                # It would hide which room it comes from; no room is named so, and thus it is a fault.
                yield node.lineno, "orchestrator.(relative)"
            elif node.module == "orchestrator":
                yield from ((node.lineno, f"orchestrator.{alias.name}") for alias in node.names)
            elif node.module is not None:
                yield node.lineno, node.module


def habit_faults(source: str) -> Iterator[str]:
    """Calls and forms that have no place in any file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"line {node.lineno}: a star import hides where names come from"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: a bare except swallows Ctrl-C"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in BANNED_CALLS:
                yield f"line {node.lineno}: {name}: {BANNED_CALLS[name]}"
            if any(word.arg == "shell" and not _is_false(word.value) for word in node.keywords):
                yield f"line {node.lineno}: shell= lets a name become a command"


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def text_faults(text: str, lines_max: int = LINES_MAX) -> Iterator[str]:
    """Length, and names that no file holds."""
    lines = text.splitlines()
    if len(lines) > lines_max:
        yield f"{len(lines)} lines: more than {lines_max}"
    for number, line in enumerate(lines, 1):
        if REGISTRY.search(line):
            yield f"line {number}: names a package registry"


def says_its_idea(source: str) -> bool:
    """The file opens with one line that says its one idea."""
    return bool(ast.get_docstring(ast.parse(source)))
