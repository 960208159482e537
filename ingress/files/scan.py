"""The file system side: which manifest files there are, and their bytes. Synchronous; called from a worker thread.

Hidden files and folders (a ConfigMap mount's `..data` among them) and editors' temporary files don't count, symbolic
links do. A file that is visible under two names is read once, under the first.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ingress.errors import ConfigError, SourceError

EXTENSIONS = (".yaml", ".yml", ".json")
SIZE_LIMIT_BYTES = 256 << 20

Signature = tuple[int, int, int, int, int]
"""(device, inode, size, mtime ns, ctime ns): equal means unchanged."""


class Unreadable(SourceError):
    """A file or folder exists but can't be read; `str()` is one line."""


def check_paths(paths: Iterable[Path], flag: str = "--manifests") -> None:
    """Raise ConfigError for a path that doesn't exist or can't be read."""
    for path in paths:
        try:
            path.stat()
            readable = os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
        except OSError as error:
            raise ConfigError(f"{flag} {path}: {error.strerror or error}") from None
        except ValueError:
            raise ConfigError(f"{flag} {str(path)!r}: not a path") from None
        if not readable:
            raise ConfigError(f"{flag} {path}: Permission denied")


def is_manifest_name(name: str) -> bool:
    return not is_hidden(name) and name.lower().endswith(EXTENSIONS)


def is_hidden(name: str) -> bool:
    """`.x` hidden, `#x` and `~x` editors' temporary files."""
    return name.startswith((".", "#", "~"))


def display(path: str) -> str:
    """As verdicts show it: printable whatever bytes a file name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


def signature(status: os.stat_result) -> Signature:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(slots=True)
class Scan:
    """What is visible under one root.

    `files` and `folders` are visible paths. The linked ones map a visible path to the real one behind its symbolic
    link: places to watch in addition. `problems` are what couldn't be listed: what was known below it stays.
    """

    files: dict[str, Signature] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    linked_folders: dict[str, str] = field(default_factory=dict)  # visible path -> real path
    linked_files: dict[str, str] = field(default_factory=dict)  # visible path -> real path
    problems: dict[str, str] = field(default_factory=dict)
    vanished: bool = False  # the root itself isn't there


def scan(root: Path) -> Scan:
    """A root that is a file counts whatever its name. Never raises OSError."""
    found = Scan()
    path = str(root)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        found.vanished = True
        return found
    except OSError as error:
        found.problems[path] = _why(error)
        return found
    if stat.S_ISDIR(status.st_mode):
        _scan_folder(path, status, found)
    else:
        found.files[path] = signature(status)
    return found


def _scan_folder(root: str, status: os.stat_result, found: Scan) -> None:
    seen = {(status.st_dev, status.st_ino)}  # a link to a folder above would go round for ever
    real_parents: dict[str, str] = {}
    pending = [root]
    while pending:
        folder = pending.pop()
        found.folders.add(folder)
        try:
            with os.scandir(folder) as entries:
                children = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            found.folders.discard(folder)
            continue
        except OSError as error:
            found.problems[folder] = _why(error)
            continue
        for entry in children:
            if is_hidden(entry.name):
                continue
            try:
                is_link = entry.is_symlink()
                if entry.is_dir():
                    target = entry.stat()
                    if (target.st_dev, target.st_ino) in seen:
                        continue
                    seen.add((target.st_dev, target.st_ino))
                    pending.append(entry.path)
                    if is_link:
                        found.linked_folders[entry.path] = os.path.realpath(entry.path)
                elif entry.name.lower().endswith(EXTENSIONS):
                    target = entry.stat()
                    found.files[entry.path] = signature(target)
                    if is_link:
                        found.linked_files[entry.path] = _real_target(entry.path, folder, real_parents)
            except FileNotFoundError:
                continue  # deleted meanwhile, or a link to nothing
            except OSError as error:
                found.problems[entry.path] = _why(error)


def _real_target(path: str, folder: str, real_parents: dict[str, str]) -> str:
    """Target of a link with its folder resolved; the folder of 10,000 links of a ConfigMap mount is resolved once."""
    target = os.path.join(folder, os.readlink(path))
    parent, name = os.path.split(target)
    real = real_parents.get(parent)
    if real is None:
        real = real_parents[parent] = os.path.realpath(parent)
    return os.path.join(real, name)


def read(path: str, *, any_type: bool = False) -> tuple[bytes, Signature, bool]:
    """Content, signature and whether it stood still while being read.

    Raise FileNotFoundError when it is gone, Unreadable when it can't be read. `any_type` admits a pipe (`/dev/stdin`);
    otherwise it would block for ever.
    """
    try:
        # non-blocking: opening a named pipe would wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if any_type else os.O_NONBLOCK))
        with open(descriptor, "rb", buffering=0) as file:
            before = os.fstat(descriptor)
            if stat.S_ISDIR(before.st_mode) or not (any_type or stat.S_ISREG(before.st_mode)):
                raise Unreadable("not a regular file")
            data = _read_limited(file.fileno())
            after = os.fstat(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Unreadable(_why(error)) from None
    return data, signature(after), signature(before) == signature(after)


def _read_limited(descriptor: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := os.read(descriptor, 1 << 20):
        chunks.append(chunk)
        size += len(chunk)
        if size > SIZE_LIMIT_BYTES:
            raise Unreadable(f"larger than {SIZE_LIMIT_BYTES >> 20} MiB")
    return b"".join(chunks)


def _why(error: OSError) -> str:
    return error.strerror or str(error)
