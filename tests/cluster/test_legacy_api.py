"""An API server that serves no EndpointSlices: routes follow Endpoints."""

import asyncio

from tests.cluster.support import echo_deployment, fetch_until, ingress, install_chart, service


def test_endpoints_where_there_are_no_slices(cluster, namespace):
    with cluster.control_plane.without_apis("discovery.k8s.io/v1"):
        follow_endpoints(cluster, namespace)


def follow_endpoints(cluster, namespace):
    release = install_chart(cluster, "legacy", namespace, {"controller": {"workers": 1}})
    try:
        host = f"{namespace}.example.com"
        cluster.apply(echo_deployment("echo", 2), service("echo"), ingress("echo", host, "echo"), namespace=namespace)
        cluster.wait_rollout("deployment", "echo", namespace)
        address = release.address()

        def answering():
            return asyncio.run(_pods(address, host))

        for replicas in (2, 3, 1):
            cluster.kubectl("scale", "deployment/echo", f"--replicas={replicas}", "-n", namespace)
            cluster.wait_rollout("deployment", "echo", namespace)
            pods = {pod["metadata"]["name"] for pod in cluster.pods(namespace, "app=echo")}
            assert len(pods) == replicas
            cluster.eventually(lambda pods=pods: answering() == pods, f"answers from {replicas} Pods")
        (pod,) = release.pods()
        log = cluster.container_log(namespace, pod["metadata"]["name"], "controller").read_text()
        assert " error " not in log
    finally:
        release.uninstall()


async def _pods(address, host):
    return {(await fetch_until(address, host)).pod for _ in range(12)}
