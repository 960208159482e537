"""Objects of many files as one set. Pure; a change of one file costs what changed in it.

The same object in two files: the first file by path is used, the other is a verdict. An object whose newest definition
doesn't decode stays in its last good version.
"""

from bisect import insort
from collections.abc import Mapping

from ingress.errors import Verdict
from ingress.files.documents import EMPTY, Manifest, duplicate
from ingress.model.kubernetes import KubernetesObject
from ingress.model.ref import ObjectRef


class Catalog:
    def __init__(self) -> None:
        self._files: dict[str, Manifest] = {}
        self._files_of: dict[ObjectRef, tuple[str, ...]] = {}  # sorted
        self._kept: dict[str, dict[ObjectRef, KubernetesObject]] = {}  # last good versions of what is broken, by file
        self._judged: set[str] = set()  # files with verdicts
        self._objects: dict[ObjectRef, KubernetesObject] = {}
        self._duplicates: dict[ObjectRef, tuple[Verdict, ...]] = {}

    def objects(self) -> dict[ObjectRef, KubernetesObject]:
        """A copy: the caller's to keep."""
        return self._objects.copy()

    def verdicts(self) -> list[Verdict]:
        """By file and position, duplicates behind."""
        found = [verdict for name in sorted(self._judged) for verdict in self._files[name].verdicts]
        for ref in sorted(self._duplicates):
            found.extend(self._duplicates[ref])
        return found

    def put(self, name: str, manifest: Manifest) -> bool:
        """Replace what file `name` says; return whether anything is different now."""
        old = self._files.get(name, EMPTY)
        self._files[name] = manifest
        if manifest.verdicts:
            self._judged.add(name)
        else:
            self._judged.discard(name)
        return self._apply(name, old, manifest)

    def remove(self, name: str) -> bool:
        old = self._files.pop(name, None)
        self._judged.discard(name)
        return old is not None and self._apply(name, old, EMPTY)

    def drops(self, name: str, new: Manifest) -> bool:
        """Whether objects would go if file `name` said `new`."""
        old = self._files.get(name, EMPTY)
        return any(ref not in new.objects and ref not in new.broken for ref in (*old.objects, *old.broken))

    def _apply(self, name: str, old: Manifest, new: Manifest) -> bool:
        touched = {ref for ref, found in new.objects.items() if old.objects.get(ref) is not found}
        touched.update(ref for ref in old.objects if ref not in new.objects)
        touched.update(ref for ref, verdict in new.broken.items() if old.broken.get(ref) != verdict)
        touched.update(ref for ref in old.broken if ref not in new.broken)
        self._keep(name, old, new)
        for ref in touched:
            self._claim(ref, name, ref in new.objects or ref in new.broken)
            self._settle(ref)
        return bool(touched) or old.verdicts != new.verdicts

    def _keep(self, name: str, old: Manifest, new: Manifest) -> None:
        before = self._kept.pop(name, {})
        kept = {}
        for ref in new.broken:
            good = old.objects.get(ref) or before.get(ref) or self._objects.get(ref)
            if good is not None:
                kept[ref] = good
        if kept:
            self._kept[name] = kept

    def _claim(self, ref: ObjectRef, name: str, is_there: bool) -> None:
        names = list(self._files_of.get(ref, ()))
        if is_there and name not in names:
            insort(names, name)
        elif not is_there and name in names:
            names.remove(name)
        if names:
            self._files_of[ref] = tuple(names)
        else:
            self._files_of.pop(ref, None)

    def _settle(self, ref: ObjectRef) -> None:
        """Which definition of `ref` is served."""
        names = self._files_of.get(ref, ())
        chosen: KubernetesObject | None = None
        for name in names:
            chosen = self._files[name].objects.get(ref) or self._kept.get(name, {}).get(ref)
            if chosen is not None:
                break
        if chosen is None:
            self._objects.pop(ref, None)
        else:
            self._objects[ref] = chosen
        if len(names) < 2:
            self._duplicates.pop(ref, None)
            return
        places = [_place(self._files[name], ref) for name in names]
        self._duplicates[ref] = tuple(duplicate(ref, places[0], place) for place in places[1:])


def _place(manifest: Manifest, ref: ObjectRef) -> str:
    definitions: Mapping[ObjectRef, KubernetesObject | Verdict] = (
        manifest.objects if ref in manifest.objects else manifest.broken
    )
    return definitions[ref].origin
