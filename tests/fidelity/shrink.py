"""The shortest sequence that still shows a difference: parts are left out, names and numbers made plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.fidelity.operations import Operation

TRIES_MAX = 400  # some minutes; what is left then is short enough to be read


class Enough(Exception):
    """No more is tried."""


def shrink(operations: list[Operation], fails: Callable[[list[Operation]], bool]) -> list[Operation]:
    """Every sequence that is tried is judged by `fails`; what is returned failed."""
    best = list(operations)
    tries = 0

    def still(candidate: list[Operation]) -> bool:
        nonlocal best, tries
        tries += 1
        if tries > TRIES_MAX:
            raise Enough
        if fails(candidate):
            best = candidate
            return True
        return False

    try:
        _leave_out(operations, still)
        _short_names(best, still)
        _leave_out(best, still)  # the directories of the long ones
        _make_plain(best, still)
    except Enough:
        pass
    return best


def _leave_out(operations: list[Operation], still: Callable[[list[Operation]], bool]) -> None:
    """Halves, quarters... single operations; what went at a smaller size lets a larger one go, so again."""
    best, size = list(operations), len(operations) // 2
    while size:
        at, went = 0, False
        while at < len(best):
            candidate = best[:at] + best[at + size :]
            if candidate and still(candidate):
                best, went = candidate, True
            else:
                at += size
        size = size if went and size == 1 else size // 2


def _short_names(operations: list[Operation], still: Callable[[list[Operation]], bool]) -> None:
    """Each path everywhere by one letter that is not used yet, where it does as well."""
    best = list(operations)
    paths = {value for operation in best for value in operation[2:] if isinstance(value, bytes)}
    free = [letter for letter in (b"a", b"b", b"c", b"d", b"e", b"f") if letter not in paths]
    for path in sorted(paths, key=lambda path: (-len(path), path)):
        if len(path) > 1 and free:
            trial = [tuple(free[0] if value == path else value for value in operation) for operation in best]
            if still(trial):
                best = trial
                free.pop(0)


def _make_plain(operations: list[Operation], still: Callable[[list[Operation]], bool]) -> None:
    best = list(operations)
    for at in range(len(best)):
        for candidate in _plainer(best[at]):
            trial = [*best[:at], candidate, *best[at + 1 :]]
            if still(trial):
                best = trial


def _plainer(operation: Operation) -> Iterator[Operation]:
    who, verb, *arguments = operation
    if who != "root":
        yield ("root", verb, *arguments)
    for at, value in enumerate(arguments):
        if isinstance(value, int) and value > 1:
            yield (who, verb, *arguments[:at], 0, *arguments[at + 1 :])
