"""The state between two looks at the file system. Synchronous, one thread at a time; `now` is an argument.

Every change must be believable before it takes objects away: a file that is missing may be between the two renames of
an editor, one that was cut short or doesn't parse may be half written. Such a file is looked at again a moment later,
and until then its last good content stays. Everything that only adds or replaces is taken at once.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingress.errors import Severity, Verdict, VerdictReason
from ingress.files.catalog import Catalog
from ingress.files.documents import EMPTY, Manifest, read_manifest, unreadable
from ingress.files.scan import Scan, Signature, Unreadable, display, read, scan, signature
from ingress.model.kubernetes import KubernetesObject
from ingress.model.ref import ObjectRef

SETTLE_S = 0.1  # how long a file must stand still before an edit in place may take objects away
EMPTY_SETTLE_S = 0.5  # the same for a file cut to nothing: writers truncate first
MISSING_S = 0.15  # how long a file must be missing before its objects go


@dataclass(slots=True)
class _File:
    manifest: Manifest = EMPTY
    applied: Signature | None = None  # of the content last taken
    errors: tuple[Verdict, ...] = ()  # why the content on disk is not the one in service
    waiting: Signature | None = None  # of content that must prove itself
    until: float = 0.0  # when `waiting` will have proved itself
    gone_at: float | None = None  # missing: when its objects go unless it comes back


@dataclass(frozen=True, slots=True)
class Outcome:
    """`changed`: objects or verdicts are different. `again_in_s`: some files need another look by then. `rescan`: a
    full look is due.
    """

    changed: bool
    again_in_s: float | None = None
    rescan: bool = False


class Manifests:
    """All manifests under `paths`. `scans` holds the last look at each root, in the order of `paths`."""

    def __init__(self, paths: Sequence[Path], *, streams: bool = False) -> None:
        """`streams`: a path may be a pipe, such as /dev/stdin; for one look only."""
        self._paths = tuple(paths)
        self._streams = frozenset(map(str, paths)) if streams else frozenset()
        self._files: dict[str, _File] = {}
        self._catalog = Catalog()
        self._unsettled: set[str] = set()
        self._broken: set[str] = set()  # files with errors
        self._root_verdicts: dict[str, Verdict] = {}
        self._inodes: dict[tuple[int, int], str] = {}
        self._loaded = False
        self.scans: tuple[Scan, ...] = ()

    def objects(self) -> dict[ObjectRef, KubernetesObject]:
        return self._catalog.objects()

    def verdicts(self) -> list[Verdict]:
        """Roots and folders first, then files that don't parse, then objects."""
        found = [self._root_verdicts[path] for path in sorted(self._root_verdicts)]
        for path in sorted(self._broken):
            found.extend(self._files[path].errors)
        found.extend(self._catalog.verdicts())
        return found

    def knows(self, path: str) -> bool:
        return path in self._files

    def rescan(self, now: float) -> Outcome:
        """Look at everything: list the folders, then read what has another signature."""
        self.scans = tuple(scan(path) for path in self._paths)
        visible: dict[str, Signature] = {}
        inodes: dict[tuple[int, int], str] = {}
        shadowed: set[str] = set()
        found: dict[str, Signature] = {}
        for one in self.scans:
            found.update(one.files)
        for path in sorted(found):
            device_inode = found[path][:2]
            if inodes.setdefault(device_inode, path) == path:
                visible[path] = found[path]
            else:
                shadowed.add(path)
        self._inodes = inodes
        changed = self._note_problems()
        for path in shadowed & self._files.keys():
            changed |= self._remove(path)
        kept_below = self._kept_below()
        for path in [p for p in self._files if p not in visible]:
            if path.startswith(kept_below):
                self._settled(path, self._files[path])
            elif self._is_overdue(path, now):
                changed |= self._remove(path)
        for path, seen in visible.items():
            changed |= self._look(path, seen, now)
        self._loaded = True
        return Outcome(changed, self._again())

    def look(self, paths: Iterable[str], now: float) -> Outcome:
        """Look at single files, known or new. Files that wait for another look are included."""
        changed = rescan = False
        for path in sorted({*paths, *self._unsettled}):
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                # whether its objects go is decided by a full look: the root may be gone as a whole
                rescan |= path in self._files and self._is_overdue(path, now)
                continue
            except OSError:
                rescan = True
                continue
            # a folder, or perhaps a second name of a known file
            if stat.S_ISDIR(status.st_mode) or (path not in self._files and self._is_alias(path, status)):
                rescan = True
                continue
            changed |= self._look(path, signature(status), now)
        return Outcome(changed, self._again(), rescan)

    # ---- one file -------------------------------------------------------------------------------------------------

    def _look(self, path: str, seen: Signature, now: float) -> bool:
        """Read the file if it isn't the one last taken; return whether objects or verdicts are different now."""
        file = self._files.get(path)
        if file is not None and file.gone_at is None:
            if file.applied == seen:
                return False
            if file.waiting == seen and now < file.until:
                return False
        name = display(path)
        is_new = file is None
        if file is None:
            file = self._files[path] = _File()
        try:
            data, seen, stood_still = read(path, any_type=path in self._streams)
        except FileNotFoundError:
            self._is_overdue(path, now)
            return False
        except Unreadable as error:
            self._settled(path, file)
            file.applied = None  # it may be readable again without a change of its own
            return self._set_errors(path, file, (unreadable(name, f"The file can't be read: {error}"),))
        file.gone_at = None
        manifest = read_manifest(name, data, file.manifest.documents, is_json=path.lower().endswith(".json"))
        patience = self._patience(path, file, is_new, data, seen, manifest)
        if not stood_still and self._loaded:
            patience = max(patience, SETTLE_S)
        if patience > 0.0:
            if file.waiting != seen:
                file.waiting, file.until = seen, now + patience
            if now < file.until:
                file.manifest = _with_documents(file.manifest, manifest)
                self._unsettled.add(path)
                return False
        self._settled(path, file)
        file.applied = seen
        if manifest.errors:
            # the last good content stays in service, with its own verdicts
            file.manifest = _with_documents(file.manifest, manifest)
            return self._set_errors(path, file, manifest.errors)
        file.manifest = manifest
        changed = self._set_errors(path, file, ())
        return self._catalog.put(path, manifest) or changed

    def _patience(
        self, path: str, file: _File, is_new: bool, data: bytes, seen: Signature, manifest: Manifest
    ) -> float:
        """Seconds that this content must have stood still to be taken."""
        if not self._loaded:
            return 0.0
        in_place = is_new or file.applied is None or file.applied[:2] == seen[:2]
        if not in_place:
            return 0.0  # renamed over: complete from the start
        if not data or data.isspace():
            return EMPTY_SETTLE_S
        return SETTLE_S if manifest.errors or self._catalog.drops(path, manifest) else 0.0

    def _set_errors(self, path: str, file: _File, errors: tuple[Verdict, ...]) -> bool:
        changed = file.errors != errors
        file.errors = errors
        if errors:
            self._broken.add(path)
        else:
            self._broken.discard(path)
        return changed

    def _is_overdue(self, path: str, now: float) -> bool:
        """Note that a known file is missing; whether it has been for long enough."""
        file = self._files[path]
        if file.gone_at is None:
            file.gone_at = now + MISSING_S
        if now >= file.gone_at:
            return True
        self._unsettled.add(path)
        return False

    def _remove(self, path: str) -> bool:
        file = self._files.pop(path)
        self._unsettled.discard(path)
        self._broken.discard(path)
        return self._catalog.remove(path) or bool(file.errors)

    def _settled(self, path: str, file: _File) -> None:
        file.waiting = None
        file.gone_at = None
        self._unsettled.discard(path)

    def _again(self) -> float | None:
        """Files in doubt are few and short-lived: looked at every few tens of milliseconds."""
        return SETTLE_S / 4 if self._unsettled else None

    def _is_alias(self, path: str, status: os.stat_result) -> bool:
        if status.st_nlink > 1:
            return True
        known = self._inodes.get((status.st_dev, status.st_ino), path)
        if known == path:
            return False
        try:
            return os.path.samestat(os.stat(known), status)  # not if the number was only used again
        except OSError:
            return False

    # ---- folders --------------------------------------------------------------------------------------------------

    def _note_problems(self) -> bool:
        verdicts: dict[str, Verdict] = {}
        for path, found in zip(self._paths, self.scans, strict=True):
            if found.vanished:
                name = display(str(path))
                verdicts[str(path)] = Verdict(
                    object=name,
                    field="",
                    reason=VerdictReason.PARSE_ERROR,
                    severity=Severity.WARNING,
                    message="The path is gone: what a folder held last stays in service, a single file's objects go",
                    origin=name,
                )
            for folder, problem in found.problems.items():
                name = display(folder)
                verdicts[folder] = unreadable(name, f"{problem}: what was read before stays in service")
        changed = verdicts != self._root_verdicts
        self._root_verdicts = verdicts
        return changed

    def _kept_below(self) -> tuple[str, ...]:
        """Path prefixes under which missing files stay: a root folder that vanished (unmounted, swapped), folders that
        can't be listed.
        """
        kept: list[str] = []
        for path, found in zip(self._paths, self.scans, strict=True):
            if found.vanished:
                kept.append(f"{path}{os.sep}")
            for problem in found.problems:
                kept += [problem, f"{problem}{os.sep}"]
        return tuple(kept)


def _with_documents(manifest: Manifest, attempt: Manifest) -> Manifest:
    return Manifest(attempt.documents, manifest.objects, manifest.broken, manifest.verdicts)
