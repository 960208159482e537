"""Decisions of the load balancer's stand-in."""

import pytest

from tools.envtest import loadbalancer
from tools.envtest.loadbalancer import Backend, Frontend


def test_frontends():
    ports = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    service = {"spec": {"clusterIP": "10.88.128.5", "ports": ports}}
    assert loadbalancer.frontends(service, None) == {Frontend("10.88.128.5", 80): "http"}
    assert loadbalancer.frontends(service, "10.88.250.1") == {
        Frontend("10.88.128.5", 80): "http",
        Frontend("10.88.250.1", 80): "http",
    }


@pytest.mark.parametrize("spec", [{"clusterIP": "None", "ports": [{"port": 80}]}, {"externalName": "a.example"}])
def test_no_frontend(spec):
    assert loadbalancer.frontends({"spec": spec}, None) == {}


def test_ready_in_slice():
    item = {
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "endpoints": [
            {"addresses": ["10.88.16.1"], "conditions": {"ready": True}},
            {"addresses": ["10.88.16.2"], "conditions": {"ready": False, "serving": True}},
            {"addresses": ["10.88.16.3"]},
        ],
    }
    assert loadbalancer.ready_in_slice(item) == {"http": [("10.88.16.1", 8080), ("10.88.16.3", 8080)]}
    assert loadbalancer.ready_in_slice({**item, "addressType": "IPv6"}) == {}
    assert loadbalancer.ready_in_slice({"addressType": "IPv4", "endpoints": None, "ports": None}) == {}


def test_ready_in_endpoints():
    item = {
        "subsets": [
            {
                "addresses": [{"ip": "10.88.16.1"}],
                "notReadyAddresses": [{"ip": "10.88.16.2"}],
                "ports": [{"port": 8080}],
            },
            {"notReadyAddresses": [{"ip": "10.88.16.3"}], "ports": [{"port": 8081}]},
        ]
    }
    assert loadbalancer.ready_in_endpoints(item) == {"": [("10.88.16.1", 8080)]}
    assert loadbalancer.ready_in_endpoints({}) == {}


def test_turns():
    backend = Backend([("a", 1), ("b", 1), ("c", 1)])
    firsts = [backend.in_turn()[0][0] for _ in range(4)]
    assert firsts == ["a", "b", "c", "a"]
    assert sorted(backend.in_turn()) == [("a", 1), ("b", 1), ("c", 1)]
    backend.targets = []
    assert backend.in_turn() == []
