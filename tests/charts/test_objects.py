"""Services, IngressClasses, ConfigMaps, network policies, the default backend."""

from typing import Any

import pytest

from tests.charts.support import Chart, Object, Refused

NAME = "web-aioingress-controller"

DEFAULT_BACKEND: dict[str, Any] = {
    "enabled": True,
    "image": {"repository": "registry.example.com/errors", "tag": 1.5},
    "port": 8081,
    "replicaCount": 2,
    "extraArgs": {"quiet": "", "code": 404},
    "networkPolicy": {"enabled": True},
}


def ports_of(service: Object) -> dict[str, tuple[int, str | int, str | None]]:
    """Name to (port, target, application protocol)."""
    return {
        port["name"]: (port["port"], port["targetPort"], port.get("appProtocol")) for port in service["spec"]["ports"]
    }


class TestService:
    def test_defaults(self, chart: Chart) -> None:
        service = chart.render().one("Service")
        assert service["spec"].keys() == {"type", "ports", "selector"}
        assert service["spec"]["type"] == "LoadBalancer"
        assert ports_of(service) == {"http": (80, "http", "http"), "https": (443, "https", "https")}

    def test_load_balancer_fields(self, chart: Chart) -> None:
        fields = {
            "loadBalancerIP": "192.0.2.1",
            "loadBalancerClass": "example.com/lb",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "allocateLoadBalancerNodePorts": False,
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster",
            "trafficDistribution": "PreferSameZone",
            "healthCheckNodePort": 31000,
            "externalIPs": ["192.0.2.2"],
            "sessionAffinity": "ClientIP",
            "ipFamilyPolicy": "PreferDualStack",
            "ipFamilies": ["IPv6", "IPv4"],
            "clusterIP": "10.96.0.9",
        }
        service = chart.render(
            {"controller": {"service": {**fields, "annotations": {"a": "b"}, "labels": {"c": "d"}}}}
        ).one("Service")
        assert {key: service["spec"][key] for key in fields} == fields
        assert service["metadata"]["annotations"] == {"a": "b"}
        assert service["metadata"]["labels"]["c"] == "d"

    def test_other_types_leave_out_what_the_api_would_refuse(self, chart: Chart) -> None:
        fields = {
            "loadBalancerIP": "192.0.2.1",
            "loadBalancerClass": "example.com/lb",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "allocateLoadBalancerNodePorts": False,
            "healthCheckNodePort": 31000,
            "externalTrafficPolicy": "Local",
            "nodePorts": {"http": 30080, "https": "30443"},
        }
        cluster = chart.render({"controller": {"service": {"type": "ClusterIP", **fields}}}).one("Service")
        assert cluster["spec"].keys() == {"type", "ports", "selector"}
        assert all("nodePort" not in port for port in cluster["spec"]["ports"])
        node = chart.render({"controller": {"service": {"type": "NodePort", **fields}}}).one("Service")
        assert node["spec"].keys() == {"type", "ports", "selector", "externalTrafficPolicy"}
        assert [port["nodePort"] for port in node["spec"]["ports"]] == [30080, 30443]

    def test_ports(self, chart: Chart) -> None:
        values = {"enableHttps": False, "ports": {"http": 8000}, "targetPorts": {"http": 8080}, "appProtocol": False}
        service = chart.render({"controller": {"service": values}}).one("Service")
        assert ports_of(service) == {"http": (8000, 8080, None)}

    def test_tls_at_the_load_balancer(self, chart: Chart) -> None:
        service = chart.render({"controller": {"service": {"targetPorts": {"https": "http"}}}}).one("Service")
        assert ports_of(service)["https"] == (443, "http", "https")

    def test_internal_service_beside_the_external_one(self, chart: Chart) -> None:
        values = {"internal": {"enabled": True, "annotations": {"internal": "true"}, "ports": {"http": 8080}}}
        services = chart.render({"controller": {"service": values}}).of("Service")
        assert services.keys() == {NAME, f"{NAME}-internal"}
        internal = services[f"{NAME}-internal"]
        assert internal["spec"]["type"] == "LoadBalancer"
        assert internal["metadata"]["annotations"] == {"internal": "true"}
        assert ports_of(internal) == {"http": (8080, "http", "http"), "https": (443, "https", "https")}
        assert "annotations" not in services[NAME]["metadata"]

    def test_none(self, chart: Chart) -> None:
        assert "Service" not in chart.render({"controller": {"service": {"enabled": False}}}).kinds

    def test_tcp(self, chart: Chart) -> None:
        values = {
            "tcp": {"9000": "default/db:5432"},
            "portNamePrefix": "p",
            "controller": {"service": {"nodePorts": {"tcp": {"9000": 30900}}}, "networkPolicy": {"enabled": True}},
        }
        objects = chart.render(values)
        port = objects.one("Service")["spec"]["ports"][-1]
        assert port == {
            "name": "p-9000-tcp",
            "port": 9000,
            "protocol": "TCP",
            "targetPort": "9000-tcp",
            "nodePort": 30900,
        }
        assert {"name": "9000-tcp", "containerPort": 9000, "protocol": "TCP"} in objects.container["ports"]
        assert objects.one("ConfigMap", "web-aioingress-tcp")["data"] == {"9000": "default/db:5432"}
        open_ports = [port["port"] for port in objects.one("NetworkPolicy")["spec"]["ingress"][0]["ports"]]
        assert open_ports == [8080, 8443, 9000]


class TestIngressClass:
    def test_defaults(self, chart: Chart) -> None:
        item = chart.render().one("IngressClass")
        assert item["metadata"]["name"] == "aioingress"
        assert item["spec"] == {"controller": "aioingress.io/ingress-controller"}
        assert "annotations" not in item["metadata"]

    def test_default_class_with_parameters_and_aliases(self, chart: Chart) -> None:
        values = {
            "name": "edge",
            "default": True,
            "parameters": {"apiGroup": "example.com", "kind": "P", "name": "p"},
            "annotations": {"a": "b"},
            "aliases": ["outer"],
        }
        classes = chart.render({"controller": {"ingressClassResource": values}}).of("IngressClass")
        assert classes.keys() == {"edge", "outer"}
        annotation = "ingressclass.kubernetes.io/is-default-class"
        assert classes["edge"]["metadata"]["annotations"] == {"a": "b", annotation: "true"}
        assert classes["outer"]["metadata"]["annotations"] == {"a": "b"}
        assert classes["edge"]["spec"] == classes["outer"]["spec"]
        assert classes["edge"]["spec"]["parameters"] == values["parameters"]

    def test_none(self, chart: Chart) -> None:
        assert "IngressClass" not in chart.render({"controller": {"ingressClassResource": {"enabled": False}}}).kinds

    def test_take_over(self, chart: Chart) -> None:
        take = {"enabled": True, "createClass": True}
        classes = chart.render({"controller": {"takeOverNginx": take}}).of("IngressClass")
        assert {name: item["spec"]["controller"] for name, item in classes.items()} == {
            "aioingress": "aioingress.io/ingress-controller",
            "nginx": "k8s.io/ingress-nginx",
        }
        only_flag = chart.render({"controller": {"takeOverNginx": {"enabled": True}}})
        assert only_flag.of("IngressClass").keys() == {"aioingress"}

    def test_the_same_class_twice_is_refused(self, chart: Chart) -> None:
        values = {"takeOverNginx": {"createClass": True}, "ingressClassResource": {"name": "nginx"}}
        with pytest.raises(Refused, match='both name the IngressClass "nginx"'):
            chart.render({"controller": values})


class TestOptions:
    def test_values_become_strings(self, chart: Chart) -> None:
        config = {
            "proxy-body-size": "8m",
            "max-worker-connections": 1000000,
            "use-gzip": True,
            "otel-sampler-ratio": 0.01,
            "log-format-upstream": '{"time": "$time_iso8601", "x": \'y\'}\nnext',
            "server-tokens": "false",
        }
        data = chart.render({"controller": {"config": config}}).one("ConfigMap")["data"]
        assert data == config | {
            "max-worker-connections": "1000000",
            "use-gzip": "true",
            "otel-sampler-ratio": "0.01",
        }

    def test_empty(self, chart: Chart) -> None:
        assert chart.render().one("ConfigMap")["data"] == {}

    def test_null_is_left_out(self, chart: Chart) -> None:
        data = chart.render({"controller": {"config": {"a": None, "b": "c"}}}).one("ConfigMap")["data"]
        assert data == {"b": "c"}

    def test_headers(self, chart: Chart) -> None:
        values = {"proxySetHeaders": {"X-A": "b"}, "addHeaders": {"X-C": 1}, "configAnnotations": {"n": "x"}}
        maps = chart.render({"controller": values}).of("ConfigMap")
        assert maps[NAME]["data"] == {
            "proxy-set-headers": "edge/web-aioingress-custom-proxy-headers",
            "add-headers": "edge/web-aioingress-custom-add-headers",
        }
        assert maps[NAME]["metadata"]["annotations"] == {"n": "x"}
        assert maps["web-aioingress-custom-proxy-headers"]["data"] == {"X-A": "b"}
        assert maps["web-aioingress-custom-add-headers"]["data"] == {"X-C": "1"}

    def test_elsewhere(self, chart: Chart) -> None:
        assert "ConfigMap" not in chart.render({"controller": {"configMapNamespace": "conf"}}).kinds


class TestNetworkPolicy:
    def test_in_to_its_ports_only(self, chart: Chart) -> None:
        peers = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
        values = {"networkPolicy": {"enabled": True, "metricsFrom": peers}, "containerPort": {"metrics": 9000}}
        spec = chart.render({"controller": values}).one("NetworkPolicy")["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        clients, metrics = spec["ingress"]
        assert [port["port"] for port in clients["ports"]] == [8080, 8443]
        assert "from" not in clients
        assert [port["port"] for port in metrics["ports"]] == [9000]
        assert metrics["from"] == peers
        assert spec["egress"] == [{}]


class TestDefaultBackend:
    def test_objects(self, chart: Chart) -> None:
        objects = chart.render({"defaultBackend": DEFAULT_BACKEND, "controller": {"service": {"type": "NodePort"}}})
        name = "web-aioingress-defaultbackend"
        deployment = objects.one("Deployment", name)
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert deployment["spec"]["replicas"] == 2
        assert container["image"] == "registry.example.com/errors:1.5"
        assert container["args"] == ["--code=404", "--quiet"]
        assert container["ports"][0]["containerPort"] == 8081
        assert container["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] == name
        assert pod["automountServiceAccountToken"] is False
        service = objects.one("Service", name)
        assert ports_of(service) == {"http": (80, "http", "http")}
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert labels["app.kubernetes.io/component"] == "default-backend"
        assert objects.one("PodDisruptionBudget", name)["spec"]["minAvailable"] == 1
        assert objects.one("NetworkPolicy", name)["spec"]["ingress"][0]["ports"][0]["port"] == 8081

    def test_controllers_service_does_not_select_it(self, chart: Chart) -> None:
        objects = chart.render({"defaultBackend": DEFAULT_BACKEND})
        selector = objects.one("Service", NAME)["spec"]["selector"]
        labels = objects.one("Deployment", "web-aioingress-defaultbackend")["spec"]["template"]["metadata"]["labels"]
        assert not selector.items() <= labels.items()

    def test_needs_an_image(self, chart: Chart) -> None:
        with pytest.raises(Refused, match=r"defaultBackend\.image\.repository is empty"):
            chart.render({"defaultBackend": {"enabled": True}})


def test_common_labels_are_everywhere(chart: Chart) -> None:
    values = {
        "commonLabels": {"team": "edge", "cost-centre": 7},
        "controller": {"metrics": {"enabled": True}, "replicaCount": 2},
        "defaultBackend": DEFAULT_BACKEND,
    }
    for item in chart.render(values).items:
        assert item["metadata"]["labels"]["team"] == "edge", item["kind"]
        assert item["metadata"]["labels"]["cost-centre"] == "7"
