"""PEM into OpenSSL without a file system: its loaders want paths, and private keys have no business on a disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """A path under /proc under which `content` can be read while the block lasts. Raises OSError where Linux's memfd isn't there."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
