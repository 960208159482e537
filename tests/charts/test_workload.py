"""The controller's Pods: Deployment or DaemonSet, security, ports, probes, shut-down, scheduling."""

from typing import Any

import pytest

import ingress
from tests.charts.support import Chart, Refused


def ports_of(container: dict[str, Any]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


class TestDefaults:
    def test_names_are_release_and_component(self, chart: Chart) -> None:
        objects = chart.render()
        assert objects.of("Deployment").keys() == {"web-aioingress-controller"}
        assert objects.of("Service").keys() == {"web-aioingress-controller"}
        assert objects.of("ConfigMap").keys() == {"web-aioingress-controller"}
        assert chart.render(release="aioingress").of("Deployment").keys() == {"aioingress-controller"}
        assert chart.render({"fullnameOverride": "front"}).of("Deployment").keys() == {"front-controller"}
        assert chart.render({"nameOverride": "gate"}).of("Deployment").keys() == {"web-gate-controller"}

    def test_a_long_name_leaves_room_for_every_suffix(self, chart: Chart) -> None:
        values = {
            "fullnameOverride": "a" * 60,
            "controller": {
                "name": "c" * 40,
                "metrics": {"enabled": True},
                "service": {"internal": {"enabled": True}},
            },
            "defaultBackend": {"enabled": True, "image": {"repository": "errors"}},
        }
        names = chart.render(values).of("Service").keys()
        assert len(names) == 4
        assert max(map(len, names)) <= 63

    def test_nothing_optional_is_there(self, chart: Chart) -> None:
        expected = {"ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
        assert chart.render().kinds == expected | {"Service", "Deployment", "IngressClass"}

    def test_everything_namespaced_is_in_the_releases_namespace(self, chart: Chart) -> None:
        cluster_wide = {"ClusterRole", "ClusterRoleBinding", "IngressClass"}
        for values, namespace in (({}, "edge"), ({"namespaceOverride": "front"}, "front")):
            for item in chart.render(values).items:
                wanted = None if item["kind"] in cluster_wide else namespace
                assert item["metadata"].get("namespace") == wanted, item["kind"]

    def test_selector_matches_the_pods(self, chart: Chart) -> None:
        objects = chart.render({"controller": {"metrics": {"enabled": True}, "replicaCount": 2}})
        labels = objects.workload["spec"]["template"]["metadata"]["labels"]
        selectors = [
            objects.workload["spec"]["selector"]["matchLabels"],
            objects.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            *(service["spec"]["selector"] for service in objects.of("Service").values()),
        ]
        assert len(selectors) == 4
        for selector in selectors:
            assert selector.items() <= labels.items()
            assert selector["app.kubernetes.io/component"] == "controller"
            assert selector["app.kubernetes.io/instance"] == "web"

    def test_pods_are_not_restarted_by_the_chart_or_by_options(self, chart: Chart) -> None:
        template = chart.render().workload["spec"]["template"]
        assert template == chart.render({"controller": {"config": {"use-gzip": "true"}}}).workload["spec"]["template"]
        assert "helm.sh/chart" not in template["metadata"]["labels"]

    def test_the_pod_knows_itself(self, chart: Chart) -> None:
        env = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in chart.render().container["env"]}
        assert env == {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
        assert chart.render().pod["enableServiceLinks"] is False

    def test_entry_point_is_the_command_itself(self, chart: Chart) -> None:
        assert chart.render().container["command"] == ["ingress"]
        assert chart.render().args[0] == "serve"


class TestSecurity:
    def test_restricted_pod_security_standard(self, chart: Chart) -> None:
        objects = chart.render()
        pod, container = objects.pod["securityContext"], objects.container["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == 65532
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "sysctls" not in pod
        assert container["allowPrivilegeEscalation"] is False
        assert container["readOnlyRootFilesystem"] is True
        assert container["capabilities"] == {"drop": ["ALL"]}

    @pytest.mark.parametrize(
        "values",
        [
            {"controller": {"containerPort": {"http": 80}}},
            {"controller": {"containerPort": {"https": 443}}},
            {"tcp": {"22": "default/ssh:22"}},
        ],
    )
    def test_a_low_port_gets_exactly_what_it_needs(self, chart: Chart, values: dict[str, Any]) -> None:
        objects = chart.render(values)
        assert objects.container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}
        assert objects.pod["securityContext"]["sysctls"] == [
            {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
        ]

    def test_the_nodes_network_has_no_sysctls_of_its_own(self, chart: Chart) -> None:
        objects = chart.render({"controller": {"hostNetwork": True, "containerPort": {"http": 80}}})
        assert "sysctls" not in objects.pod["securityContext"]
        assert objects.pod["dnsPolicy"] == "ClusterFirstWithHostNet"

    def test_own_sysctls_stay(self, chart: Chart) -> None:
        sysctls = {"net.ipv4.ip_unprivileged_port_start": "80", "net.core.somaxconn": 4096}
        objects = chart.render({"controller": {"containerPort": {"http": 80}, "sysctls": sysctls}})
        assert objects.pod["securityContext"]["sysctls"] == [
            {"name": "net.core.somaxconn", "value": "4096"},
            {"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"},
        ]

    def test_contexts_can_be_overridden(self, chart: Chart) -> None:
        values = {"podSecurityContext": {"runAsUser": 1000}, "containerSecurityContext": {"privileged": False}}
        objects = chart.render({"controller": values})
        assert objects.pod["securityContext"]["runAsUser"] == 1000
        assert objects.pod["securityContext"]["runAsNonRoot"] is True
        assert objects.container["securityContext"]["privileged"] is False


class TestImage:
    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            ({"repository": "registry.example.com/edge/x"}, f"registry.example.com/edge/x:{ingress.__version__}"),
            ({"registry": "registry.example.com", "tag": "1.2"}, "registry.example.com/aioingress:1.2"),
            ({"tag": "1.2", "digest": "sha256:0123abcd"}, "aioingress@sha256:0123abcd"),
        ],
    )
    def test_reference(self, chart: Chart, image: dict[str, Any], expected: str) -> None:
        assert chart.render({"controller": {"image": image}}).container["image"] == expected

    def test_global_registry_and_pull_secrets(self, chart: Chart) -> None:
        values = {"global": {"image": {"registry": "mirror.example.com"}}, "imagePullSecrets": [{"name": "pull"}]}
        objects = chart.render(values)
        assert objects.container["image"].startswith("mirror.example.com/aioingress:")
        assert objects.pod["imagePullSecrets"] == [{"name": "pull"}]


class TestKinds:
    def test_deployment_starts_the_new_before_it_ends_the_old(self, chart: Chart) -> None:
        spec = chart.render().workload["spec"]
        assert spec["replicas"] == 1
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}

    def test_daemonset(self, chart: Chart) -> None:
        objects = chart.render({"controller": {"kind": "DaemonSet"}})
        spec = objects.workload["spec"]
        assert "Deployment" not in objects.kinds
        assert "replicas" not in spec
        assert "strategy" not in spec
        assert spec["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert spec["template"] == chart.render().workload["spec"]["template"]

    @pytest.mark.parametrize("holds", [{"hostNetwork": True}, {"hostPort": {"enabled": True}}])
    @pytest.mark.parametrize(("kind", "key"), [("Deployment", "strategy"), ("DaemonSet", "updateStrategy")])
    def test_two_pods_cannot_hold_the_same_port_of_a_node(
        self, chart: Chart, holds: dict[str, Any], kind: str, key: str
    ) -> None:
        strategy = chart.render({"controller": {"kind": kind, **holds}}).workload["spec"][key]
        assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}

    def test_own_strategy_wins_as_a_whole(self, chart: Chart) -> None:
        spec = chart.render({"controller": {"updateStrategy": {"type": "Recreate"}}}).workload["spec"]
        assert spec["strategy"] == {"type": "Recreate"}

    def test_both_at_once_is_refused(self, chart: Chart) -> None:
        with pytest.raises(Refused, match="/controller/kind"):
            chart.render({"controller": {"kind": "Both"}})


class TestPorts:
    def test_defaults(self, chart: Chart) -> None:
        assert ports_of(chart.render().container) == {"http": 8080, "https": 8443, "metrics": 10254}

    def test_host_ports(self, chart: Chart) -> None:
        values = {"controller": {"hostPort": {"enabled": True, "ports": {"http": 81}}}}
        host = {port["name"]: port.get("hostPort") for port in chart.render(values).container["ports"]}
        assert host == {"http": 81, "https": 443, "metrics": None}

    def test_on_the_nodes_network_host_port_is_container_port(self, chart: Chart) -> None:
        values = {"controller": {"hostNetwork": True, "hostPort": {"enabled": True}}}
        host = {port["name"]: port.get("hostPort") for port in chart.render(values).container["ports"]}
        assert host == {"http": 8080, "https": 8443, "metrics": None}

    def test_probes_follow_the_name_of_the_metrics_port(self, chart: Chart) -> None:
        container = chart.render({"controller": {"metrics": {"portName": "admin"}}}).container
        assert "admin" in ports_of(container)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == "admin"


class TestLifecycle:
    def test_probes(self, chart: Chart) -> None:
        container = chart.render().container
        ready, live, start = (container[name] for name in ("readinessProbe", "livenessProbe", "startupProbe"))
        assert ready["httpGet"] == {"path": "/readyz", "port": "metrics"}
        assert ready["periodSeconds"] * ready["failureThreshold"] <= 5
        assert live["httpGet"] == {"path": "/healthz", "port": "metrics"}
        assert live["periodSeconds"] * live["failureThreshold"] >= 60
        assert start["periodSeconds"] * start["failureThreshold"] >= 120

    def test_a_pod_has_time_to_go(self, chart: Chart) -> None:
        objects = chart.render()
        pause = objects.container["lifecycle"]["preStop"]["exec"]["command"]
        assert pause == ["/bin/sleep", "5"]
        grace, drain = objects.flag("shutdown-grace-period"), objects.flag("drain-timeout")
        assert grace == "5"
        assert drain == "240"
        assert int(pause[1]) + int(grace) + int(drain) < objects.pod["terminationGracePeriodSeconds"]

    def test_probes_and_hooks_can_be_replaced_or_dropped(self, chart: Chart) -> None:
        values = {
            "lifecycle": {"preStop": {"exec": {"command": ["/bin/sleep", "15"]}}},
            "startupProbe": None,
            "readinessProbe": {"periodSeconds": 1},
        }
        container = chart.render({"controller": values}).container
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["/bin/sleep", "15"]
        assert "startupProbe" not in container
        assert container["readinessProbe"]["periodSeconds"] == 1
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


class TestScheduling:
    def test_pods_spread_over_nodes_where_they_can(self, chart: Chart) -> None:
        [constraint] = chart.render().pod["topologySpreadConstraints"]
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert constraint["topologyKey"] == "kubernetes.io/hostname"
        assert constraint["labelSelector"]["matchLabels"] == {
            "app.kubernetes.io/name": "aioingress",
            "app.kubernetes.io/instance": "web",
            "app.kubernetes.io/component": "controller",
        }

    def test_own_constraints(self, chart: Chart) -> None:
        own = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
        selector = {"labelSelector": {"matchLabels": {"app.kubernetes.io/instance": "{{ .Release.Name }}"}}}
        values = {"controller": {"topologySpreadConstraints": [own, own | selector]}}
        first, second = chart.render(values).pod["topologySpreadConstraints"]
        assert first["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "controller"
        assert second["labelSelector"] == {"matchLabels": {"app.kubernetes.io/instance": "web"}}
        none = chart.render({"controller": {"topologySpreadConstraints": []}})
        assert "topologySpreadConstraints" not in none.pod

    def test_what_users_hand_through(self, chart: Chart) -> None:
        mount, volume = {"name": "extra", "mountPath": "/extra"}, {"name": "extra", "emptyDir": {}}
        values = {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "runtimeClassName": "kata",
            "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
            "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}],
            "shareProcessNamespace": True,
            "extraVolumes": [volume],
            "extraVolumeMounts": [mount],
            "extraInitContainers": [{"name": "before", "image": "{{ .Release.Name }}:1"}],
            "extraContainers": [{"name": "beside", "image": "b"}],
            "extraEnvs": [{"name": "INGRESS_LOG_FORMAT", "value": "json"}],
            "resources": {"limits": {"cpu": "2"}},
            "podLabels": {"tier": "edge"},
            "podAnnotations": {"note": "x"},
            "labels": {"owner": "me"},
            "annotations": {"a": "b"},
            "minReadySeconds": 3,
        }
        objects = chart.render({"controller": values})
        pod, container = objects.pod, objects.container
        assert pod["nodeSelector"] == {"disk": "ssd", "kubernetes.io/os": "linux"}
        for key in ("tolerations", "affinity", "priorityClassName", "runtimeClassName", "dnsConfig", "hostAliases"):
            assert pod[key] == values[key]
        assert pod["shareProcessNamespace"] is True
        assert pod["volumes"] == [volume]
        assert container["volumeMounts"] == [mount]
        assert pod["initContainers"] == [{"name": "before", "image": "web:1"}]
        assert [item["name"] for item in pod["containers"]] == ["controller", "beside"]
        assert container["env"][-1] == {"name": "INGRESS_LOG_FORMAT", "value": "json"}
        assert container["resources"]["limits"] == {"cpu": "2"}
        template = objects.workload["spec"]["template"]["metadata"]
        assert template["labels"]["tier"] == "edge"
        assert template["annotations"] == {"note": "x"}
        assert objects.workload["metadata"]["labels"]["owner"] == "me"
        assert objects.workload["metadata"]["annotations"] == {"a": "b"}
        assert objects.workload["spec"]["minReadySeconds"] == 3


class TestScaling:
    def test_autoscaler_owns_the_number_of_replicas(self, chart: Chart) -> None:
        values = {"autoscaling": {"enabled": True, "targetMemoryUtilizationPercentage": 80}, "replicaCount": 5}
        objects = chart.render({"controller": values})
        assert "replicas" not in objects.workload["spec"]
        scaler = objects.one("HorizontalPodAutoscaler")
        assert scaler["apiVersion"] == "autoscaling/v2"
        assert scaler["spec"]["scaleTargetRef"]["name"] == objects.workload["metadata"]["name"]
        assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 11)
        targets = {
            metric["resource"]["name"]: metric["resource"]["target"]["averageUtilization"]
            for metric in scaler["spec"]["metrics"]
        }
        assert targets == {"cpu": 50, "memory": 80}

    def test_own_metrics_and_behaviour(self, chart: Chart) -> None:
        metric = {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}
        behavior = {"scaleDown": {"stabilizationWindowSeconds": 300}}
        autoscaling = {"enabled": True, "targetCPUUtilizationPercentage": 0, "behavior": behavior}
        spec = chart.render({"controller": {"autoscaling": autoscaling, "autoscalingTemplate": [metric]}}).one(
            "HorizontalPodAutoscaler"
        )["spec"]
        assert spec["metrics"] == [metric]
        assert spec["behavior"] == behavior

    def test_older_api_before_1_23(self, chart: Chart) -> None:
        objects = chart.render({"controller": {"autoscaling": {"enabled": True}}}, kube="1.22.0")
        assert objects.one("HorizontalPodAutoscaler")["apiVersion"] == "autoscaling/v2beta2"

    def test_limits_must_agree(self, chart: Chart) -> None:
        with pytest.raises(Refused, match=r"autoscaling\.minReplicas is 5"):
            chart.render({"controller": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}})

    @pytest.mark.parametrize(
        ("values", "budget"),
        [
            ({"replicaCount": 1}, None),
            ({"replicaCount": 2}, {"minAvailable": 1}),
            ({"replicaCount": 2, "minAvailable": "50%"}, {"minAvailable": "50%"}),
            ({"replicaCount": 2, "maxUnavailable": 1}, {"maxUnavailable": 1}),
            ({"replicaCount": 1, "autoscaling": {"enabled": True}}, {"minAvailable": 1}),
            ({"replicaCount": 9, "autoscaling": {"enabled": True, "minReplicas": 1}}, None),
            ({"replicaCount": 2, "kind": "DaemonSet"}, None),
        ],
    )
    def test_a_disruption_budget_never_blocks_the_only_replica(
        self, chart: Chart, values: dict[str, Any], budget: dict[str, Any] | None
    ) -> None:
        found = chart.render({"controller": values}).of("PodDisruptionBudget").values()
        amounts = [{key: value for key, value in item["spec"].items() if key != "selector"} for item in found]
        assert amounts == ([] if budget is None else [budget])
