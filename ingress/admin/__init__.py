"""The admin listener: health, readiness, metrics, and dumps that explain the routing. Read-only; not for the public.

It reads through the callables of an `AdminView` and knows nothing of workers, sources or the data plane.
"""

from ingress.admin.dump import dump_table, dump_verdicts
from ingress.admin.server import AdminServer, make_app, start
from ingress.admin.view import AdminView, Probe

__all__ = ["AdminServer", "AdminView", "Probe", "dump_table", "dump_verdicts", "make_app", "start"]
