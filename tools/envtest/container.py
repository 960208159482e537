"""Starts a container's process: `python container.py SPEC.json` makes the Pod's folders appear where the specification mounts them, then becomes the command.

SPEC.json: {"argv": [...], "env": {...}, "hostname": "...", "mounts": [[source folder, mount path], ...]}. Host name and mounts are seen by this process and its
children only (namespaces of its own). A mount path that isn't there is put into a copy of its parent's listing, which hides the parent: nothing of the machine
is written to. Nothing but the standard library, and as little of that as possible: it runs before every container.
"""

import ctypes
import os
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUTS = 0x00020000, 0x04000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def _call(done: int, what: str) -> None:
    if done:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    done = _LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, None)
    _call(done, f"mount of {source} at {target}")


def _place(path: str) -> None:
    """Make an empty folder at `path` for this mount namespace."""
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    if parent == "/":
        raise OSError(f"nothing can be mounted at {path}: the root folder has no such entry")
    # the parent's entries, bound one by one into a file system in memory, which then takes the parent's place
    _mount(parent, "/mnt", "", _MS_BIND | _MS_REC)
    _mount("tmpfs", parent, "tmpfs", 0)
    for entry in os.scandir("/mnt"):
        copy = os.path.join(parent, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), copy)
        elif entry.is_dir():
            os.mkdir(copy)
            _mount(entry.path, copy, "", _MS_BIND | _MS_REC)
        elif entry.is_file():
            os.close(os.open(copy, os.O_CREAT))
            _mount(entry.path, copy, "", _MS_BIND)
    os.makedirs(path)


def main(path: str) -> None:
    import json

    with open(path) as file:
        spec = json.load(file)
    _call(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWUTS), "namespaces of its own")
    hostname = spec["hostname"].encode()
    _call(_LIBC.sethostname(hostname, len(hostname)), "the host name")
    if spec["mounts"]:
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        for source, target in spec["mounts"]:
            target = os.path.realpath(target)  # /var/run is /run
            if not os.path.isdir(target):
                _place(target)
            _mount(source, target, "", _MS_BIND)
    argv = spec["argv"]
    os.execvpe(argv[0], argv, spec["env"])


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except OSError as error:
        print(f"envtest: the container can't start: {error}", file=sys.stderr)
        sys.exit(128)
