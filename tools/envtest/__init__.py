"""A Kubernetes cluster on one machine, for tests and for playing: the real control plane, stand-ins for what needs machines and a cloud.

Real: etcd, kube-apiserver, kube-controller-manager, kubectl, helm, and every Pod of this project's own image. Stood in for: the
kubelet and the scheduler (`kubelet`), the load balancer and kube-proxy (`loadbalancer`). All of it runs in a network namespace of its own
(`netns`), so that Pods and Services have addresses and nothing reaches another machine. docs/testing.md tells how to use it.
"""

from dataclasses import dataclass


class EnvtestError(Exception):
    """The environment can't be had; the text is one line for the person who wanted it."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    name: str
    internal: str
    external: str
    pod_prefix: str  # the first two bytes of the host part's network: Pods get prefix.1 to prefix.254 and on


# One range, of which the namespace makes every address local; parts of it as a cluster would have them.
NETWORK = "10.88.0.0/16"
API_SERVER = "10.88.0.1"
API_SERVER_PORT = 6443
SERVICE_NETWORK = "10.88.128.0/18"
LOAD_BALANCER_NETWORK = "10.88.250.0/24"
CLIENT_NETWORK = "10.88.252.0/24"  # nothing here uses it: addresses for tests to send from
NODES = (
    NodeAddresses("node-1", "10.88.1.1", "10.88.251.1", "10.88.16"),
    NodeAddresses("node-2", "10.88.1.2", "10.88.251.2", "10.88.32"),
)
