"""Source of objects: manifests in files and folders, watched live."""

from ingress.files.scan import check_paths
from ingress.files.source import FilesSource, load

__all__ = ["FilesSource", "check_paths", "load"]
