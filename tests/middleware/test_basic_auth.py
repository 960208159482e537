"""Basic authentication: parse, and the hook. Scenarios of ingress-nginx's auth and no_auth_locations tests are here and in tests/proxy/test_access.py."""

import asyncio
import base64
import threading
from typing import Any

import bcrypt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.exchange import Exchange
from ingress.middleware import basic_auth, htpasswd
from ingress.middleware.basic_auth import BasicAuth, decode
from ingress.routing.table import Feature
from tests.middleware.support import PREFIX, Bound, Worker, basic, exchange, options, parsed, route, secret
from tests.middleware.test_htpasswd import SHA  # of "secret"
from tests.proxy.support import until

BASIC = {"auth-type": "basic", "auth-secret": "users", "auth-realm": "test auth"}
SLOW = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


def bound(content: str, worker: Worker | None = None, **more: str) -> Bound:
    result = parsed({**BASIC, **more}, secret(auth=content))
    assert not result.closed
    return (worker or Worker()).bind(result.features)


def status(bound: Bound, subject: Exchange) -> int:
    answer = bound.now(subject)
    return 0 if answer is None else answer.status


# ---- parse ----


def test_a_file() -> None:
    result = parsed(BASIC, secret(auth=f"alice:{SHA}\nbob:{SLOW}\n"))
    assert result.policy("basic-auth") == BasicAuth(
        "test auth", (("alice", SHA), ("bob", SLOW)), ("/.well-known/acme-challenge",)
    )
    assert result.verdicts == ()


def test_a_map() -> None:
    result = parsed(
        {**BASIC, "auth-secret-type": "auth-map"}, secret(alice=SHA + "\n", bob="x", carol="a\nroot:" + SHA)
    )
    assert result.policy("basic-auth").users == (("alice", SHA),)
    (verdict,) = result.verdicts
    assert "key bob: " in verdict.message
    assert "key carol: " in verdict.message


def test_realm_defaults_to_nothing_as_in_nginx() -> None:
    made = {k: v for k, v in BASIC.items() if k != "auth-realm"}
    assert parsed(made, secret(auth=f"a:{SHA}")).policy("basic-auth").realm == ""
    bad = parsed({**BASIC, "auth-realm": "a\r\nSet-Cookie: x"}, secret(auth=f"a:{SHA}"))
    assert (bad.policy("basic-auth").realm, bad.fields, bad.closed) == ("", ["auth-realm"], "")


@pytest.mark.parametrize(
    ("changes", "objects", "field"),
    [
        ({"auth-type": "digest"}, {"auth": f"a:{SHA}"}, "auth-type"),
        ({"auth-type": "Basic"}, {"auth": f"a:{SHA}"}, "auth-type"),
        ({"auth-type": ""}, {"auth": f"a:{SHA}"}, "auth-type"),
        ({"auth-secret": "missing"}, {"auth": f"a:{SHA}"}, "auth-secret"),
        ({"auth-secret": "other/users"}, {"auth": f"a:{SHA}"}, "auth-secret"),
        ({"auth-secret": "a/b/c"}, {"auth": f"a:{SHA}"}, "auth-secret"),
        ({"auth-secret": ""}, {"auth": f"a:{SHA}"}, "auth-secret"),
        ({"auth-secret-type": "auth-list"}, {"auth": f"a:{SHA}"}, "auth-secret-type"),
        ({}, {"htpasswd": f"a:{SHA}"}, "auth-secret"),
        ({}, {"auth": ""}, "auth-secret"),
        ({}, {"auth": "# nobody\n"}, "auth-secret"),
        ({"auth-secret-type": "auth-map"}, {}, "auth-secret"),
    ],
)
def test_what_closes(changes: dict[str, str], objects: dict[str, str], field: str) -> None:
    result = parsed({**BASIC, **changes}, secret(**objects))
    assert result.closed
    assert result.policy("basic-auth") is None
    assert field in result.fields
    assert SHA not in str(result.verdicts)


def test_half_of_the_annotations() -> None:
    assert parsed({"auth-type": "basic"}).fields == ["auth-type"]
    assert parsed({"auth-type": "basic"}).closed
    assert parsed({"auth-secret": "users"}, secret(auth=f"a:{SHA}")).closed
    alone = parsed({"auth-realm": "x", "auth-secret-type": "auth-map"})
    assert (alone.closed, alone.features) == ("", ())
    assert alone.fields == ["auth-secret-type", "auth-realm"]


def test_a_secret_that_is_not_base64() -> None:
    made = msgspec.structs.replace(secret(), data={"auth": "!!!"})
    assert parsed(BASIC, made).closed


def test_bad_lines_are_told_without_their_hashes_and_cost_only_themselves() -> None:
    lines = ["alice:hunter2", f"bob:{SHA}", "nonsense", "carol:", f"bob:{SLOW}", *["x"] * 9]
    result = parsed(BASIC, secret(auth="\n".join(lines)))
    assert result.policy("basic-auth").users == (("bob", SHA),)
    (verdict,) = result.verdicts
    assert verdict.field == f"metadata.annotations[{PREFIX}auth-secret]"
    for text in ("line 1:", "line 3:", "line 4:", "line 5:", "more"):
        assert text in verdict.message
    for text in ("hunter2", SHA, SLOW):
        assert text not in str(verdict)


def test_a_user_without_usable_password_shadows_a_later_one() -> None:
    """nginx takes the first line of a name, whatever it holds."""
    assert status(bound(f"foo:\nfoo:{SHA}"), exchange(b"/", basic("foo", "secret"))) == 401


@given(st.binary(max_size=300), st.sampled_from(["auth-file", "auth-map"]))
def test_any_secret_closes_or_lets_nobody_in_by_chance(content: bytes, form: str) -> None:
    result = parsed({**BASIC, "auth-secret-type": form}, secret(auth=content))
    if not result.closed:
        assert status(Worker().bind(result.features), exchange(b"/", basic("", ""))) == 401
        assert status(Worker().bind(result.features), exchange()) == 401


def test_nothing_shows_the_hashes() -> None:
    result = parsed(BASIC, secret(auth=f"alice:{SHA}"))
    assert SHA not in repr(result.features)
    assert SHA not in repr(result.policy("basic-auth"))
    assert basic_auth.SPEC.hidden == {"users"}


# ---- the hook ----


def test_credentials() -> None:
    made = bound(f"foo:{SHA}")
    assert status(made, exchange()) == 401
    assert status(made, exchange(b"/", basic("user", "pass"))) == 401
    assert status(made, exchange(b"/", basic("foo", "wrong"))) == 401
    for _ in range(2):  # verified, then remembered
        subject = exchange(b"/", (b"X", b"y"), basic("foo", "secret"))
        assert status(made, subject) == 0
        assert subject.remote_user == b"foo"
        assert subject.fields == [b"X", b": ", b"y", b"\r\n"]  # without Authorization
    assert status(made, exchange(b"/", basic("foo", "wrong"))) == 401


def test_the_challenge_cannot_be_broken_out_of() -> None:
    answer = bound(f"a:{SHA}", **{"auth-realm": 'say "hi" \\'}).now(exchange())
    assert answer is not None
    assert answer.fields == ((b"WWW-Authenticate", b'Basic realm="say \\"hi\\" \\\\"'),)


def test_realm_off_is_a_realm() -> None:
    """In nginx it would switch the authentication off."""
    assert status(bound(f"a:{SHA}", **{"auth-realm": "off"}), exchange()) == 401


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Basic",
        b"Basic ",
        b"Basic !!!",
        b"Basic Zm9v",
        b"Bearer Zm9vOnNlY3JldA==",
        b"Zm9vOnNlY3JldA==",
        b"Basic Zm9vOnNlY3JldA",
        b"Basic " + b"A" * 9000,
    ]
    + [b"Basic Zm9vOnNlY3JldA== x", b"Digest username=foo", b"Basic\tZm9vOnNlY3JldA=="],
)
def test_headers_that_are_no_credentials(header: bytes) -> None:
    assert decode(header) is None
    assert status(bound(f"foo:{SHA}"), exchange(b"/", (b"Authorization", header))) == 401


def test_the_scheme_has_no_case() -> None:
    assert decode(b"bAsIc  Zm9vOnNlOmNyZXQ=") == (b"foo", b"se:cret")


@given(st.binary(max_size=100))
def test_any_header(header: bytes) -> None:
    assert status(bound(f"foo:{SHA}"), exchange(b"/", (b"Authorization", header))) == 401


def test_user_names_are_bytes() -> None:
    user = "jürgen"
    result = parsed(BASIC, secret(auth=f"{user}:{SHA}"))
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(result.features), type=tuple[Feature, ...])
    assert status(Worker().bind(sent), exchange(b"/", basic(user, "secret"))) == 0


def test_exempt_rules() -> None:
    features = parsed(BASIC, secret(auth=f"a:{SHA}"), options=options(no_auth_locations="/noauth")).features
    worker = Worker()
    assert status(worker.bind(features, route("/noauth")), exchange(b"/noauth")) == 0
    assert status(worker.bind(features, route("/")), exchange(b"/noauth")) == 401


# ---- slow hashes ----


async def test_slow_hashes_are_verified_off_the_loop_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    verify = htpasswd.verify

    def seen(hashed: str, password: bytes) -> bool:
        threads.append(threading.get_ident())
        return verify(hashed, password)

    monkeypatch.setattr(htpasswd, "verify", seen)
    worker = Worker(loop=asyncio.get_running_loop())
    made = bound(f"foo:{SLOW}", worker)
    assert await made.ask(exchange(b"/", basic("foo", "secret"))) is None
    assert threads != [threading.get_ident()]
    assert len(threads) == 1
    assert status(made, exchange(b"/", basic("foo", "secret"))) == 0  # at once, from memory
    assert len(threads) == 1
    for wrong in (basic("foo", "wrong"), basic("nobody", "secret"), basic("nobody", "wrong")):
        answer = await made.ask(exchange(b"/", wrong))
        assert answer is not None
        assert answer.status == 401
    assert len(threads) == 4  # who doesn't exist takes the same way


async def test_another_secret_forgets_who_was_let_in() -> None:
    worker = Worker(loop=asyncio.get_running_loop())
    before = bound(f"foo:{SLOW}", worker)
    assert await before.ask(exchange(b"/", basic("foo", "secret"))) is None
    again = bound(f"foo:{SLOW}", worker)
    assert status(again, exchange(b"/", basic("foo", "secret"))) == 0  # the same Secret: another route knows it too
    other = bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()
    after = bound(f"foo:{other}", worker)
    answer = await after.ask(exchange(b"/", basic("foo", "secret")))
    assert answer is not None
    assert answer.status == 401


async def test_no_password_is_kept() -> None:
    worker = Worker(loop=asyncio.get_running_loop())
    made = bound(f"foo:{SLOW}", worker)
    header = basic("foo", "secret")
    assert await made.ask(exchange(b"/", header)) is None
    users: Any = next(v for v in worker.objects.values() if hasattr(v, "admitted"))
    assert list(users.admitted.values()) == [b"foo"]
    (digest,) = users.admitted
    assert len(digest) == 16
    assert base64.b64decode(header[1][6:]) not in digest


async def test_a_flood_of_wrong_passwords_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(htpasswd, "verify", lambda hashed, password: free.wait(10) and False)
    worker = Worker(loop=asyncio.get_running_loop())
    made = bound(f"foo:{SLOW}", worker)
    tasks = [
        asyncio.ensure_future(made.ask(exchange(b"/", basic("foo", f"wrong{n}"))))
        for n in range(basic_auth.WAITING_LIMIT)
    ]
    await asyncio.sleep(0)
    answer = made.now(exchange(b"/", basic("foo", "one more")))
    assert answer is not None
    assert answer.status == 503
    for task in tasks[:30]:
        task.cancel()  # the client has left: its verification still counts
    await asyncio.sleep(0)
    assert made.now(exchange(b"/", basic("foo", "and one more"))).status == 503  # type: ignore[union-attr]
    free.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, asyncio.CancelledError) for r in results[:30])
    assert all(r.status == 401 for r in results[30:])  # type: ignore[union-attr]
    verifiers: Any = worker.objects["basic-auth-verifiers"]
    await until(lambda: not verifiers.waiting)


async def test_cancelled_while_verifying_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bound(f"foo:{SLOW}", Worker(loop=asyncio.get_running_loop()))
    subject = exchange(b"/", basic("foo", "secret"))
    task = asyncio.ensure_future(made.ask(subject))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert subject.remote_user == b""
