"""Where to watch, and what a reported path means. Pure apart from resolving links; the watching itself is `source`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ingress.files.scan import Scan, is_hidden, is_manifest_name

LINK_LIMIT = 40  # links followed in one path, as the kernel does

Place = tuple[str, int, int]
"""A real folder with device and inode: a folder made anew under an old name is another place."""


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """`deep` are watched with everything below, `flat` without.

    `prefixes` turn real paths below a deep folder into visible ones. `links` are single real paths of interest: the
    visible file to look at, or None when everything must be looked at.
    """

    deep: frozenset[Place] = frozenset()
    flat: frozenset[Place] = frozenset()
    prefixes: tuple[tuple[str, str], ...] = ()
    links: Mapping[str, str | None] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()

    def meaning(self, path: str) -> "str | bool":
        """The visible file to look at; True: look at everything; False: of no interest."""
        if path in self.links:
            visible = self.links[path]
            return True if visible is None else visible
        for real, root in self.prefixes:
            if path == real:
                return True
            if path.startswith(real) and path[len(real.rstrip(os.sep))] == os.sep:
                return self._below(root, path, path[len(real) :].lstrip(os.sep))
        return False

    def _below(self, root: str, path: str, relative: str) -> "str | bool":
        for part in relative.split(os.sep):
            if is_hidden(part):
                # `..data` and the folders it points to: how the kubelet swaps the content of a mounted ConfigMap
                return part.startswith("..")
        visible = os.path.join(root, relative)
        if is_manifest_name(os.path.basename(relative)):
            return visible
        return visible in self.folders or os.path.isdir(path)


def plan_watch(paths: Sequence[Path], scans: Sequence[Scan]) -> WatchPlan:
    """From the roots and the last look at each."""
    deep: set[str] = set()
    flat: set[str] = set()
    prefixes: list[tuple[str, str]] = []
    links: dict[str, str | None] = {}
    for path, scan in zip(paths, scans, strict=True):
        root = str(path)
        is_file = root in scan.files
        for link in link_chain(root):
            flat.add(os.path.dirname(link))
            links[link] = root if is_file else None
        if root in scan.folders:
            real = os.path.realpath(root)
            deep.add(real)
            prefixes.append((real, root))
    inside = tuple(folder.rstrip(os.sep) + os.sep for folder in deep)
    for scan in scans:
        for visible, real in scan.linked_folders.items():
            if real not in deep and not real.startswith(inside):
                deep.add(real)
                prefixes.append((real, visible))
        for visible, real in scan.linked_files.items():
            links[real] = visible
            if not real.startswith(inside):
                flat.add(os.path.dirname(real))
    prefixes.sort(key=lambda pair: len(pair[0]), reverse=True)
    folders = frozenset(folder for scan in scans for folder in scan.folders)
    return WatchPlan(_places(deep), _places(flat), tuple(prefixes), links, folders)


def _places(folders: set[str]) -> frozenset[Place]:
    places = set()
    for folder in folders:
        try:
            status = os.stat(folder)
        except OSError:
            continue
        places.add((folder, status.st_dev, status.st_ino))
    return frozenset(places)


def link_chain(path: str) -> list[str]:
    """The path itself and every link met in resolving it, each with its folder resolved: a change of one of them
    changes what `path` is.
    """
    found: list[str] = []
    pending = [part for part in reversed(os.path.abspath(path).split(os.sep)) if part]
    here = os.sep
    hops = 0
    while pending:
        part = pending.pop()
        if part == os.pardir:
            here = os.path.dirname(here)
            continue
        if part in ("", os.curdir):
            continue
        step = os.path.join(here, part)
        if not os.path.islink(step):
            here = step
            continue
        found.append(step)
        hops += 1
        if hops > LINK_LIMIT:
            break
        try:
            target = os.readlink(step)
        except OSError:
            break
        pending.extend(reversed(target.split(os.sep)))
        if os.path.isabs(target):
            here = os.sep
    if here not in found and here != os.sep:
        found.append(here)
    return found
