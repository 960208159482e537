"""Kubernetes: objects come from its API server, statuses and Events go there.

The only folder that imports `kubernetes_asyncio`, and that only in `client`: everything else works on `api.Api`.
"""
