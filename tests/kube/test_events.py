import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.config import KubeSettings, ProxySettings
from ingress.errors import Severity, Verdict, VerdictReason
from ingress.kube.api import Forbidden, Rejected, Unavailable
from ingress.kube.events import _API_VERSIONS, SYNC, EventRecorder, Note, note_of, parse_object, shorten
from ingress.kube.leader import LeaderElection
from ingress.model import ConfigMap, Kind, ObjectRef
from ingress.model.decode import decode_object
from ingress.translate.options.parse import parse_options
from tests.kube import virtual
from tests.kube.fake_api import FakeServer, Request

EVENTS = "/api/v1/namespaces/ns/events"


def verdict(name: str = "web", field: str = "spec.rules[0].host", **values: Any) -> Verdict:
    defaults: dict[str, Any] = {"reason": VerdictReason.INVALID_FIELD, "message": "Not a host name", "value": "a_b"}
    return Verdict(object=f"Ingress ns/{name}", field=field, **{**defaults, **values})


# ---- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ingress ns/web", ObjectRef(Kind.INGRESS, "ns", "web")),
        ("Service ns/web", ObjectRef(Kind.SERVICE, "ns", "web")),
        ("Secret ns/web", ObjectRef(Kind.SECRET, "ns", "web")),
        ("ConfigMap ns/web", ObjectRef(Kind.CONFIG_MAP, "ns", "web")),
        ("IngressClass nginx", ObjectRef(Kind.INGRESS_CLASS, "", "nginx")),
        ("IngressClass ns/nginx", None),
        ("Ingress web", None),
        ("Ingress ns/", None),
        ("Ingress /web", None),
        ("Ingress ns/web (document 2)", None),
        ("Ingress a/b/c", None),
        ("Deployment ns/web", None),
        ("manifests/web.yaml", None),
        ("Ingress", None),
        ("", None),
    ],
)
def test_parse_object(text: str, expected: ObjectRef | None) -> None:
    assert parse_object(text) == expected


def test_a_bad_option_is_an_event_of_its_config_map() -> None:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "edge", "name": "options"}}
    found = decode_object(document | {"data": {"keep-alive": "10m"}}, "")
    assert isinstance(found, ConfigMap)
    (bad,) = parse_options(found, ProxySettings()).verdicts
    note = note_of(bad)
    assert note is not None
    assert (note.ref, note.type, note.reason) == (
        ObjectRef(Kind.CONFIG_MAP, "edge", "options"),
        "Warning",
        "InvalidField",
    )
    assert note.message.startswith("data.keep-alive '10m': The value is not used: it has the unit m")
    assert note.message.endswith("The default is in force: 75.")


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(st.sampled_from(sorted(_API_VERSIONS)), LABEL, LABEL)
def test_parse_object_reads_what_object_ref_writes(kind: Kind, namespace: str, name: str) -> None:
    ref = ObjectRef(kind, "" if kind is Kind.INGRESS_CLASS else namespace, name)
    assert parse_object(str(ref)) == ref


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (verdict(), "spec.rules[0].host 'a_b': Not a host name"),
        (verdict(value=""), "spec.rules[0].host: Not a host name"),
        (verdict(field="", value=""), "Not a host name"),
    ],
)
def test_what_a_verdict_says(found: Verdict, message: str) -> None:
    note = note_of(found)
    assert note == Note(ObjectRef(Kind.INGRESS, "ns", "web"), "Warning", "InvalidField", message, found.field)


def test_warnings_and_errors_are_both_warnings() -> None:
    assert note_of(verdict(severity=Severity.WARNING)) == note_of(verdict(severity=Severity.ERROR))


@given(st.text(max_size=2000))
def test_a_message_fits(text: str) -> None:
    short = shorten(text)
    assert len(short.encode()) <= 1024
    assert short == text if len(text.encode()) <= 1024 else text.startswith(short[:-1])


@given(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", fullmatch=True), st.text())
def test_the_name_of_an_event_is_a_name(name: str, uid: str) -> None:
    found = Note(ObjectRef(Kind.INGRESS, "ns", name), "Warning", "R", "m").name(uid)
    prefix, _, digest = found.rpartition(".")
    assert len(found) <= 253
    assert name.startswith(prefix)
    assert prefix[-1].isalnum()
    assert len(digest) == 16


def test_the_name_tells_objects_and_words_apart() -> None:
    ref = ObjectRef(Kind.INGRESS, "ns", "web")
    base = Note(ref, "Warning", "R", "m", "f")
    others = [
        Note(ref, "Normal", "R", "m", "f"),
        Note(ref, "Warning", "S", "m", "f"),
        Note(ref, "Warning", "R", "n", "f"),
        Note(ref, "Warning", "R", "m", "g"),
        Note(ref._replace(kind=Kind.SERVICE), "Warning", "R", "m", "f"),
    ]
    names = [base.name("uid-1"), base.name("uid-2"), *(other.name("uid-1") for other in others)]
    assert len(set(names)) == len(names)
    assert base.name("uid-1") == Note(ref, "Warning", "R", "m", "f").name("uid-1")


# ---- scenarios ----------------------------------------------------------------------------------------------------


class Replica:
    def __init__(self, server: FakeServer, name: str = "a", queue_limit: int = 1000, **settings: Any) -> None:
        known = KubeSettings(pod_namespace="edge", pod_name=name, **settings)
        self.client = server.client(name)
        lease = server.client(f"{name}/lease")
        rng = random.Random(name)
        self.election = LeaderElection(lease, known, name, clock=virtual.clock, wall=virtual.wall, rng=rng)
        self.uids: dict[ObjectRef, str] = {}
        self.missing: set[ObjectRef] = set()
        self.recorder = EventRecorder(
            self.client,
            known,
            election=self.election,
            find=self._find,
            clock=virtual.clock,
            wall=virtual.wall,
            rng=rng,
            queue_limit=queue_limit,
        )
        self.tasks = [virtual.spawn(self.election.run()), virtual.spawn(self.recorder.run())]

    def _find(self, ref: ObjectRef) -> tuple[str, str] | None:
        return None if ref in self.missing else (self.uids.get(ref, f"uid-of-{ref.name}"), "42")

    def crash(self) -> None:
        for task in self.tasks:
            task.cancel()


def events(server: FakeServer, namespace: str = "ns") -> list[dict[str, Any]]:
    return [
        found for path, found in server.objects.items() if path.startswith(f"/api/v1/namespaces/{namespace}/events/")
    ]


def sends(server: FakeServer, client: str = "") -> list[Request]:
    return [r for r in server.writes() if "/events" in r.path and client in ("", r.client)]


def scenario(story: Callable[[FakeServer], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(FakeServer())

    virtual.run(whole)


def test_a_verdict_becomes_an_event() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict()])
        await asyncio.sleep(1)
        (event,) = events(server)
        name = event["metadata"]["name"]
        assert name.startswith("web.")
        del event["metadata"]
        assert event == {
            "apiVersion": "v1",
            "kind": "Event",
            "involvedObject": {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "Ingress",
                "namespace": "ns",
                "name": "web",
                "uid": "uid-of-web",
                "resourceVersion": "42",
                "fieldPath": "spec.rules[0].host",
            },
            "type": "Warning",
            "reason": "InvalidField",
            "message": "spec.rules[0].host 'a_b': Not a host name",
            "count": 1,
            "firstTimestamp": "2026-01-01T00:16:40Z",
            "lastTimestamp": "2026-01-01T00:16:40Z",
            "source": {"component": "aioingress.io/ingress-controller"},
            "reportingComponent": "aioingress.io/ingress-controller",
            "reportingInstance": "a",
        }
        assert a.recorder.sent == 1

    scenario(story)


def test_what_stays_is_said_once() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        for line in range(100):
            a.recorder.update([verdict(origin=f"web.yaml:{line}"), verdict("other")])
            await asyncio.sleep(10)
        assert len(sends(server)) == 2
        assert a.recorder.pending == 0

    scenario(story)


def test_two_verdicts_with_the_same_words_are_one_event() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict(), verdict(origin="x")])
        await asyncio.sleep(1)
        a.recorder.update([verdict()])
        await asyncio.sleep(1)
        a.recorder.update([verdict(), verdict(origin="x")])
        await asyncio.sleep(1)
        assert len(sends(server)) == 1

    scenario(story)


def test_what_comes_back_within_the_hour_is_counted_up() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        for _ in range(3):
            a.recorder.update([verdict()])
            await asyncio.sleep(100)
            a.recorder.update([])
            await asyncio.sleep(100)
        (event,) = events(server)
        assert event["count"] == 3
        assert event["firstTimestamp"] == "2026-01-01T00:16:40Z"
        assert event["lastTimestamp"] == "2026-01-01T00:23:20Z"

    scenario(story)


@pytest.mark.parametrize(("expired", "count"), [(True, 1), (False, 2)])
def test_what_comes_back_later_is_new_unless_the_old_one_was_kept(expired: bool, count: int) -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict()])
        await asyncio.sleep(10)
        a.recorder.update([])
        await asyncio.sleep(3595)  # not yet forgotten here
        if expired:
            for event in events(server):
                server.delete(f"{EVENTS}/{event['metadata']['name']}")
        a.recorder.update([verdict()])
        await asyncio.sleep(10)
        (event,) = events(server)
        assert event["count"] == count
        assert event["lastTimestamp"] == "2026-01-01T01:16:45Z"
        a.recorder.update([])
        await asyncio.sleep(4000)
        assert a.recorder._known == {}

    scenario(story)


def test_an_event_that_expired_early_is_made_anew() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict()])
        await asyncio.sleep(10)
        a.recorder.update([])
        (event,) = events(server)
        server.delete(f"{EVENTS}/{event['metadata']['name']}")
        a.recorder.update([verdict()])
        await asyncio.sleep(10)
        (event,) = events(server)
        assert event["count"] == 1
        assert [request.method for request in sends(server)] == ["POST", "PATCH", "POST"]

    scenario(story)


def test_a_verdict_that_went_before_it_was_sent_is_not_sent() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        await asyncio.sleep(1)
        a.recorder.update([verdict(), verdict("other")])
        a.recorder.update([verdict("other")])
        await asyncio.sleep(10)
        assert [event["involvedObject"]["name"] for event in events(server)] == ["other"]

    scenario(story)


def test_an_object_made_anew_under_its_name_gets_its_own_event() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict()])
        await asyncio.sleep(10)
        a.uids[ObjectRef(Kind.INGRESS, "ns", "web")] = "uid-2"
        await asyncio.sleep(60)
        assert {event["involvedObject"]["uid"] for event in events(server)} == {"uid-of-web", "uid-2"}
        assert len(sends(server)) == 2

    scenario(story)


def test_an_object_that_is_not_there_yet_gets_its_event_later() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.missing.add(ObjectRef(Kind.INGRESS, "ns", "web"))
        a.recorder.update([verdict()])
        await asyncio.sleep(100)
        assert sends(server) == []
        a.missing.clear()
        await asyncio.sleep(31)
        assert len(events(server)) == 1

    scenario(story)


def test_an_ingress_class_has_its_events_in_default() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        found = Verdict(object="IngressClass nginx", field="", reason=VerdictReason.INVALID_OBJECT, message="m")
        a.recorder.update([found, Verdict(object="a.yaml", field="", reason=VerdictReason.PARSE_ERROR, message="m")])
        await asyncio.sleep(1)
        (event,) = events(server, "default")
        assert event["involvedObject"]["namespace"] == ""
        assert len(sends(server)) == 1

    scenario(story)


def test_switched_off_nothing_is_sent() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server, events=False)
        a.recorder.served(frozenset())
        a.recorder.update([verdict()])
        a.recorder.served(frozenset({ObjectRef(Kind.INGRESS, "ns", "web")}))
        await asyncio.sleep(100)
        assert sends(server) == []

    scenario(story)


# ---- leaders ------------------------------------------------------------------------------------------------------


def test_a_new_leader_repeats_nothing_and_says_what_is_new() -> None:
    async def story(server: FakeServer) -> None:
        both = [Replica(server, "a"), Replica(server, "b")]
        for replica in both:
            replica.recorder.update([verdict()])
        await asyncio.sleep(10)
        first, second = sorted(both, key=lambda replica: not replica.election.is_leader)
        (before,) = events(server)
        assert sends(server, second.client.name) == []
        first.crash()
        for replica in both:
            replica.recorder.update([verdict(), verdict("other")])
        await asyncio.sleep(60)
        assert {event["involvedObject"]["name"]: event["count"] for event in events(server)} == {"web": 1, "other": 1}
        assert before in events(server)
        assert Counter(request.method for request in sends(server, second.client.name)) == {"POST": 2}
        # and it goes on counting
        second.recorder.update([])
        second.recorder.update([verdict()])
        await asyncio.sleep(10)
        assert {event["involvedObject"]["name"]: event["count"] for event in events(server)} == {"web": 2, "other": 1}

    scenario(story)


def test_a_leader_that_lost_its_lease_says_nothing() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict(f"web-{n}") for n in range(500)])
        await asyncio.sleep(10)
        await a.election.release()
        count = len(sends(server))
        assert 50 <= count < 100
        await asyncio.sleep(100)
        a.recorder.update([verdict("new")])
        await asyncio.sleep(100)
        assert len(sends(server)) == count

    scenario(story)


# ---- limits -------------------------------------------------------------------------------------------------------


def test_a_burst_then_five_a_second() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        a.recorder.update([verdict(f"web-{n}") for n in range(500)])
        await asyncio.sleep(0.1)
        assert len(sends(server)) == 25
        await asyncio.sleep(10)
        assert len(sends(server)) == pytest.approx(75, abs=2)
        await asyncio.sleep(90)
        assert len(events(server)) == 500

    scenario(story)


def test_one_object_cannot_take_it_all() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        await asyncio.sleep(1)
        a.recorder.update([verdict(field=f"f{n}") for n in range(200)])
        await asyncio.sleep(1)
        assert len(sends(server)) == 10
        a.recorder.update([*(verdict(field=f"f{n}") for n in range(200)), verdict("quiet")])
        await asyncio.sleep(1)
        assert [r.body["involvedObject"]["name"] for r in sends(server)][-1] == "quiet"
        await asyncio.sleep(600)
        assert 38 <= len(sends(server)) <= 43  # three a minute

    scenario(story)


def test_a_verdict_that_flickers_is_not_sent_each_time() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        for n in range(6000):
            a.recorder.update([verdict()] if n % 2 else [])
            await asyncio.sleep(0.1)
        assert len(sends(server)) <= 42
        assert a.recorder.pending <= 1

    scenario(story)


def test_the_queue_is_bounded_and_the_oldest_go_first() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server, queue_limit=100)
        await asyncio.sleep(1)
        a.recorder.update([verdict(f"web-{n:04}") for n in range(1000)])
        assert a.recorder.pending == 100
        assert a.recorder.dropped == 900
        await asyncio.sleep(100)
        assert [event["involvedObject"]["name"] for event in events(server)] == [
            f"web-{n:04}" for n in range(900, 1000)
        ]

    scenario(story)


def test_without_permission_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        server.fail = lambda request: Forbidden("events is forbidden") if "/events" in request.path else None
        a.recorder.update([verdict(f"web-{n}") for n in range(300)])
        await asyncio.sleep(3000)
        assert [record.message for record in caplog.records] == [
            "not allowed to write Events in namespace ns: events is forbidden"
        ]
        assert len(sends(server)) <= 50
        server.fail = lambda _: None
        await asyncio.sleep(1000)
        assert len(events(server)) == 300

    scenario(story)


def test_an_api_server_that_is_gone_is_asked_again_slowly() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        await asyncio.sleep(1)
        server.fail = lambda request: Unavailable("no connection") if "/events" in request.path else None
        a.recorder.update([verdict(f"web-{n}") for n in range(20)])
        await asyncio.sleep(300)
        assert 10 <= len(sends(server)) <= 20
        server.fail = lambda _: None
        await asyncio.sleep(60)
        assert len(events(server)) == 20
        assert a.recorder.dropped == 0

    scenario(story)


def test_an_event_that_is_refused_is_not_sent_again() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        server.fail = lambda request: Rejected("invalid") if "/events" in request.path else None
        a.recorder.update([verdict()])
        await asyncio.sleep(300)
        assert len(sends(server)) == 1
        assert a.recorder.dropped == 1

    scenario(story)


def test_a_lost_answer_makes_no_second_event() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        await asyncio.sleep(1)
        a.client.hears = False
        a.recorder.update([verdict()])
        await asyncio.sleep(0.5)
        a.client.hears = True
        await asyncio.sleep(60)
        (event,) = events(server)
        assert event["count"] == 1

    scenario(story)


# ---- Sync ---------------------------------------------------------------------------------------------------------


def test_a_newly_served_ingress_is_told_so_but_not_the_first_mass() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        await asyncio.sleep(1)
        old = frozenset(ObjectRef(Kind.INGRESS, "ns", f"old-{n}") for n in range(1000))
        a.recorder.served(old)
        web = ObjectRef(Kind.INGRESS, "ns", "web")
        a.recorder.served(old | {web})
        await asyncio.sleep(60)
        (event,) = events(server)
        assert (event["type"], event["reason"], event["involvedObject"]["name"]) == ("Normal", SYNC, "web")
        a.recorder.served(old | {web})
        a.recorder.served(old)
        a.recorder.served(old | {web})
        await asyncio.sleep(60)
        (event,) = events(server)
        assert event["count"] == 2

    scenario(story)


def test_news_never_delay_warnings() -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server)
        await asyncio.sleep(1)
        a.recorder.served(frozenset())
        a.recorder.served(frozenset(ObjectRef(Kind.INGRESS, "ns", f"new-{n:04}") for n in range(1000)))
        a.recorder.update([verdict()])
        await asyncio.sleep(0.1)
        assert Counter(event["reason"] for event in events(server)) == {SYNC: 10, "InvalidField": 1}
        assert a.recorder.dropped == 900

    scenario(story)


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(["one", "two", "three"])),
            st.sampled_from([0.0, 0.5, 70.0, 5000.0]),
            st.sampled_from(["ok", "refuses", "loses answers", "forbidden"]),
        ),
        max_size=12,
    )
)
def test_whatever_holds_in_the_end_was_said(steps: list[tuple[set[str], float, str]]) -> None:
    async def story(server: FakeServer) -> None:
        a = Replica(server, leader_election=False)
        for names, pause_s, network in steps:
            a.client.reaches = network != "refuses"
            a.client.hears = network != "loses answers"
            forbidden = network == "forbidden"
            server.fail = lambda r, forbidden=forbidden: Forbidden("no") if forbidden and "/events" in r.path else None
            a.recorder.update([verdict(name) for name in sorted(names)])
            await asyncio.sleep(pause_s)
        a.client.reaches = a.client.hears = True
        server.fail = lambda _: None
        await asyncio.sleep(400)
        said = {event["involvedObject"]["name"] for event in events(server)}
        if a.recorder.dropped == 0 and steps:
            assert steps[-1][0] <= said
        assert a.recorder.pending == 0

    scenario(story)
