"""Options that are not applied are named, and those that ask for nothing are not."""

from ingress.config import TranslateSettings
from ingress.errors import Severity, VerdictReason
from ingress.model import ConfigMap, Kind, ObjectRef
from ingress.model.cluster import ClusterState
from ingress.model.decode import decode_object
from ingress.translate.compiler import Compiler

SETTINGS = TranslateSettings(config_map=("edge", "options"))


def options(**data: str) -> ConfigMap:
    found = decode_object(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"namespace": "edge", "name": "options"},
            "data": {key.replace("_", "-"): value for key, value in data.items()},
        },
        "",
    )
    assert isinstance(found, ConfigMap)
    return found


def state(found: ConfigMap | None) -> ClusterState:
    return ClusterState(config_maps={("edge", "options"): found} if found else {})


def test_each_option_that_asks_for_something_is_named() -> None:
    compiler = Compiler(SETTINGS)
    built = compiler.compile(state(options(ssl_redirect="False", use_gzip="true", hsts_max_age="1")), None)
    assert [(v.object, v.field, v.value, v.reason, v.severity) for v in built.verdicts] == [
        (
            "ConfigMap edge/options",
            f"data.{name}",
            value,
            VerdictReason.UNSUPPORTED_FIELD,
            Severity.WARNING,
        )
        for name, value in (("hsts-max-age", "1"), ("use-gzip", "true"))
    ]


def test_a_change_is_seen_and_a_missing_one_has_no_options() -> None:
    compiler = Compiler(SETTINGS)
    changed = frozenset((ObjectRef(Kind.CONFIG_MAP, "edge", "options"),))
    assert compiler.compile(state(None), None).verdicts == ()
    assert len(compiler.compile(state(options(use_gzip="true")), changed).verdicts) == 1
    assert compiler.compile(state(options()), changed).verdicts == ()


def test_other_config_maps_are_not_options() -> None:
    assert Compiler(TranslateSettings()).compile(state(options(use_gzip="true")), None).verdicts == ()
