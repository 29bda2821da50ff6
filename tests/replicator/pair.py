"""Two replicators' stream sides over loopback TLS: a live tree here, a following one there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.host.tls import client_context, server_context
from orchestrator.mirror.differ import Place
from orchestrator.model.names import ClusterName, Epoch, ModuleName, NodeName, Nonce
from orchestrator.model.record import Record
from orchestrator.replicator import ops
from orchestrator.replicator.follower import Follower
from orchestrator.replicator.history import History
from orchestrator.replicator.link import LinkSettings
from orchestrator.replicator.logs import ChangeLogs
from orchestrator.replicator.places import place_at
from orchestrator.replicator.stream import Primary
from orchestrator.replicator.trees import Excluded, nothing_excluded
from orchestrator.setup.ca import Issued, issue, make_authority

CLUSTER, MODULE = ClusterName("shop"), ModuleName("db")
PARIS, LYON = NodeName("paris"), NodeName("lyon")


def bundle(folder: Path, authority: Issued, cluster: str, node: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    issued = issue(authority, cluster, node)
    (folder / "ca.crt").write_bytes(authority.certificate)
    (folder / "node.crt").write_bytes(issued.certificate)
    (folder / "node.key").write_bytes(issued.key)
    return str(folder)


def record(epoch: int, nonce: str, in_sync: set[NodeName], primary: NodeName = PARIS) -> Record:
    return Record(CLUSTER, MODULE, Epoch(epoch), primary, frozenset(in_sync), (PARIS, LYON), Nonce(nonce))


class LiveTree:
    """The files of a primary, as the FUSE side keeps them: every change below a lock, then emitted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.lock = threading.RLock()
        self.outlet: Primary | None = None
        self._ids: dict[int, int] = {}
        self._bound: dict[int, int] = {}
        self._next = 2
        self._fresh: set[int] = set()
        """Inodes made here: their entries are those of FRESH objects."""

    def close(self) -> None:
        os.close(self.fd)

    # --- what a copy needs ---

    def root(self, volume: int) -> int:
        return self.fd

    def namespace(self, volume: int) -> Any:
        return self.lock

    def object(self, volume: int, inode: int) -> Any:
        return self.lock

    def id_of(self, volume: int, inode: int) -> int | None:
        id = self._ids.get(inode)
        if id is not None:
            for path in self._paths_of(inode):
                self._bind(path)
        return id

    def place_of(self, volume: int, inode: int) -> Place | None:
        for path in self._paths_of(inode):
            return place_at(self.fd, os.fsencode(path))
        return None

    def _paths_of(self, inode: int) -> Iterator[str]:
        for folder, directories, names in os.walk(self.path):
            for name in [*directories, *names]:
                path = os.path.join(folder, name)
                if os.lstat(path).st_ino == inode:
                    yield os.path.relpath(path, self.path)

    def new_id(self, volume: int) -> int:
        self._next += 1
        return self._next

    # --- what an application does ---

    def _bind(self, path: str) -> int:
        assert self.outlet is not None
        if path in ("", "."):
            return ops.ROOT
        inode = os.lstat(self.path / path).st_ino
        id = self._ids.setdefault(inode, self.new_id(0))
        if self._bound.get(id) != self.outlet.binding:
            self._bound[id] = self.outlet.binding
            folder, name = os.path.split(path)
            self.outlet.emit(ops.Bind(0, id, self._bind(folder), os.fsencode(name)))
        return id

    def _made(self, path: str) -> int:
        assert self.outlet is not None
        inode = os.lstat(self.path / path).st_ino
        self.outlet.made(0, inode)
        self._fresh.add(inode)
        id = self._ids[inode] = self.new_id(0)
        self._bound[id] = self.outlet.binding
        return id

    def _name_keys(self, path: str) -> None:
        """A name in a directory changes, and the directory's times with it."""
        folder, name = os.path.split(path)
        self._keys(folder, (ops.NAMES, 0), (ops.ATTRIBUTES, 0), name=os.fsencode(name))

    def _keys(self, path: str, *whats: tuple[int, int], name: bytes = b"") -> None:
        assert self.outlet is not None
        inode = os.lstat(self.path / path).st_ino
        fresh = inode in self._fresh
        self.outlet.before_change(
            [
                (0, inode, ops.FRESH if fresh and extent == 0 and what != ops.ALL else what, extent)
                for what, extent in whats
            ],
            [(0, inode, name)] if name else [],
        )

    def create(self, path: str, mode: int = 0o640) -> None:
        folder, name = os.path.split(path)
        with self.lock:
            self._name_keys(path)
            parent = self._bind(folder)
            os.close(os.open(self.path / path, os.O_CREAT | os.O_EXCL, mode))
            os.chmod(self.path / path, mode)
            self.outlet.emit(  # type: ignore[union-attr]
                ops.Create(0, self._made(path), parent, os.fsencode(name), stat.S_IFREG | mode, 0, 0)
            )

    def mkdir(self, path: str) -> None:
        folder, name = os.path.split(path)
        with self.lock:
            self._name_keys(path)
            parent = self._bind(folder)
            os.mkdir(self.path / path, 0o750)
            self.outlet.emit(ops.Mkdir(0, self._made(path), parent, os.fsencode(name), 0o750, 0, 0))  # type: ignore[union-attr]

    def write(self, path: str, offset: int, data: bytes) -> int:
        with self.lock:
            first, last = offset // ops.EXTENT_BYTES, (offset + len(data) - 1) // ops.EXTENT_BYTES
            self._keys(path, *((ops.DATA, extent) for extent in range(first, last + 1)))
            id = self._bind(path)
            with open(self.path / path, "r+b") as file:
                file.seek(offset)
                file.write(data)
            return self.outlet.emit(ops.Write(0, id, offset, data))  # type: ignore[union-attr]

    def truncate(self, path: str, size: int) -> None:
        with self.lock:
            self._keys(path, (ops.DATA, ops.WHOLE), (ops.ATTRIBUTES, 0))
            id = self._bind(path)
            os.truncate(self.path / path, size)
            self.outlet.emit(ops.SetAttr(0, id, ops.SIZE, size=size))  # type: ignore[union-attr]

    def chmod(self, path: str, mode: int) -> None:
        with self.lock:
            self._keys(path, (ops.ATTRIBUTES, 0))
            id = self._bind(path)
            os.chmod(self.path / path, mode)
            self.outlet.emit(ops.SetAttr(0, id, ops.MODE, mode=mode))  # type: ignore[union-attr]

    def set_xattr(self, path: str, name: str, value: bytes) -> None:
        with self.lock:
            self._keys(path, (ops.ATTRIBUTES, 0))
            id = self._bind(path)
            os.setxattr(self.path / path, name, value)
            self.outlet.emit(ops.SetXattr(0, id, name.encode(), value))  # type: ignore[union-attr]

    def rmdir(self, path: str) -> None:
        folder, name = os.path.split(path)
        with self.lock:
            self._name_keys(path)
            parent = self._bind(folder)
            inode = os.lstat(self.path / path).st_ino
            os.rmdir(self.path / path)
            self._ids.pop(inode, None)
            self.outlet.emit(ops.Rmdir(0, parent, os.fsencode(name)))  # type: ignore[union-attr]

    def unlink(self, path: str) -> None:
        folder, name = os.path.split(path)
        with self.lock:
            self._name_keys(path)
            parent = self._bind(folder)
            inode = os.lstat(self.path / path)
            if inode.st_nlink > 1:
                self._keys(path, (ops.ATTRIBUTES, 0))
                if self.outlet.folded(0, os.lstat(self.path / folder).st_ino):  # type: ignore[union-attr]
                    self._keys(path, (ops.ALL, 0))
            os.unlink(self.path / path)
            self.outlet.moved(0, inode.st_ino)  # type: ignore[union-attr]
            if inode.st_nlink == 1:
                self._ids.pop(inode.st_ino, None)
            self.outlet.emit(ops.Unlink(0, parent, os.fsencode(name)))  # type: ignore[union-attr]

    def link(self, path: str, new: str) -> None:
        folder, name = os.path.split(new)
        with self.lock:
            self._name_keys(new)
            self._keys(path, (ops.ATTRIBUTES, 0))
            self.outlet.before_change([ops.whole_key(0, os.lstat(self.path / path))], ())  # type: ignore[union-attr]
            id, parent = self._bind(path), self._bind(folder)
            os.link(self.path / path, self.path / new)
            self.outlet.emit(ops.Link(0, id, parent, os.fsencode(name)))  # type: ignore[union-attr]

    def rename(self, path: str, new: str) -> None:
        (folder, name), (new_folder, new_name) = os.path.split(path), os.path.split(new)
        with self.lock:
            moved = os.lstat(self.path / path)
            for each in (path, new):
                self._name_keys(each)
            there = [path, *([new] if os.path.lexists(self.path / new) else [])]
            self.outlet.before_change([ops.whole_key(0, os.lstat(self.path / each)) for each in there], ())  # type: ignore[union-attr]
            parent, new_parent = self._bind(folder), self._bind(new_folder)
            with contextlib.suppress(FileNotFoundError):
                victim = os.lstat(self.path / new)
                if victim.st_nlink == 1:
                    self._ids.pop(victim.st_ino, None)
            os.rename(self.path / path, self.path / new)
            self.outlet.moved(0, moved.st_ino)  # type: ignore[union-attr]
            self.outlet.emit(  # type: ignore[union-attr]
                ops.Rename(0, parent, os.fsencode(name), new_parent, os.fsencode(new_name), 0)
            )

    def sync(self, path: str) -> int:
        with self.lock:
            id = self._bind(path)
            return self.outlet.emit(ops.Sync(0, id, False))  # type: ignore[union-attr]


class Pair:
    """Paris writes, Lyon follows; both can be stopped and begun again over the same disks."""

    def __init__(self, folder: Path, again: bool = False) -> None:
        self.folder = folder
        self.bundles = {node: str(folder / f"bundle-{node}") for node in (PARIS, LYON)}
        if not again:
            self.authority = make_authority(CLUSTER)
            for node in (PARIS, LYON):
                bundle(folder / f"bundle-{node}", self.authority, CLUSTER, node)
        self.told: list[dict[str, Any]] = []
        self.trees = {PARIS: folder / "paris", LYON: folder / "lyon"}
        for tree in self.trees.values():
            tree.mkdir(exist_ok=True)
        self.primary: Primary | None = None
        self.follower: Follower | None = None
        self.live: LiveTree | None = None
        self._roots: list[int] = []
        self.admits = True
        self.port = 0
        self.through: Callable[[int], int] = lambda port: port
        """Where the primary finds what listens at this port."""

    def state(self, node: NodeName) -> tuple[History, ChangeLogs]:
        folder = str(self.folder / f"state-{node}")
        os.makedirs(folder, exist_ok=True)
        return History(folder), ChangeLogs(folder, [LYON if node == PARIS else PARIS])

    def settings(self, node: NodeName, bundle_of: str = "") -> LinkSettings:
        peer = LYON if node == PARIS else PARIS
        place = bundle_of or self.bundles[node]
        return LinkSettings(
            cluster=CLUSTER,
            module=MODULE,
            node=node,
            port=0,
            listen=["127.0.0.1"],
            peers={peer: [("127.0.0.1", "127.0.0.1")]},
            server=server_context(place),
            client=client_context(place),
            silence_s=1.0,
            ports={peer: self.port},
        )

    def tell(self, event: dict[str, Any]) -> None:
        self.told.append(event)
        if event["event"] == "reign_offered" and self.follower is not None and self.admits:
            self.follower.admit(Record.from_dict(event["record"]))

    def start_follower(self, following: Record, node: NodeName = LYON) -> Follower:
        history, logs = self.state(node)
        root = os.open(self.trees[node], os.O_RDONLY | os.O_DIRECTORY)
        self._roots.append(root)
        self.follower = Follower(
            self.settings(node), [root], history, logs, Nonce(secrets.token_hex(16)), self.tell
        )
        self.follower.listen()
        self.port = self.through(self.follower.ports[0])
        self.follower.follow(following)
        return self.follower

    def start_primary(
        self, serving: Record, node: NodeName = PARIS, excluded: Excluded = nothing_excluded
    ) -> Primary:
        history, logs = self.state(node)
        self.live = LiveTree(self.trees[node])
        self.primary = Primary(self.settings(node), history, logs, self.tell, excluded)
        self.primary.serve_tree(self.live, 1)
        self.live.outlet = self.primary
        self.primary.take_reign(serving)
        return self.primary

    def stop_primary(self) -> None:
        if self.primary is not None:
            self.primary.stop()
            self.primary.logs.close()
            self.primary = None
        if self.live is not None:
            self.live.close()
            self.live = None

    def stop_follower(self) -> None:
        if self.follower is not None:
            self.follower.stop()
            self.follower.logs.close()
            self.follower = None

    def stop(self) -> None:
        self.stop_primary()
        self.stop_follower()
        for root in self._roots:
            os.close(root)

    def said(self, event: str) -> list[dict[str, Any]]:
        return [told for told in self.told if told["event"] == event]


def picture(root: Path, times: bool = False) -> dict[str, Any]:
    """Everything that a user could miss in a tree, by name."""
    seen: dict[int, str] = {}
    return dict(_pictures(root, root, seen, times))


def _pictures(root: Path, folder: Path, seen: dict[int, str], times: bool) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.iterdir()):
        name = str(path.relative_to(root))
        if name in (".hafarm", "lost+found"):
            continue
        status = path.lstat()
        what: list[Any] = [oct(status.st_mode), status.st_uid, status.st_gid]
        if times:
            what.append(status.st_mtime_ns)
        if path.is_symlink():
            what.append(os.readlink(path))
        elif path.is_file():
            what += [status.st_size, hashlib.sha1(path.read_bytes()).hexdigest()]
            what.append(seen.setdefault(status.st_ino, name))
        if not path.is_symlink():
            xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            what.append(xattrs)
        yield name, what
        if path.is_dir() and not path.is_symlink():
            yield from _pictures(root, path, seen, times)
