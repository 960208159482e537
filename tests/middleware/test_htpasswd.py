"""Password files: every kind of hash, made by the tools that people use, and what can't be used."""

import base64
import hashlib

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from passlib.hash import apr_md5_crypt, des_crypt, md5_crypt, sha256_crypt, sha512_crypt

from ingress.middleware import htpasswd

SALT = b"salt"
SSHA = "{SSHA}" + base64.b64encode(hashlib.sha1(b"secret" + SALT).digest() + SALT).decode()
SHA = "{SHA}" + base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
HASHES = {
    "bcrypt": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode(),
    "bcrypt 2y, as htpasswd -B writes it": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$"),
    "bcrypt 2a": bcrypt.hashpw(b"secret", bcrypt.gensalt(4, b"2a")).decode(),
    "apr1": apr_md5_crypt.hash("secret"),
    "md5": md5_crypt.hash("secret"),
    "sha256": sha256_crypt.using(rounds=1000).hash("secret"),
    "sha256, rounds left out": sha256_crypt.using(rounds=5000).hash("secret"),
    "sha512": sha512_crypt.using(rounds=1000).hash("secret"),
    "des": des_crypt.hash("secret"),
    "sha": SHA,
    "ssha": SSHA,
    "plain": "{PLAIN}secret",
}


@pytest.mark.parametrize("name", HASHES)
def test_the_right_password_and_wrong_ones(name: str) -> None:
    hashed = HASHES[name]
    assert htpasswd.fault_of(hashed) == ""
    assert htpasswd.verify(hashed, b"secret")
    for wrong in (b"", b"Secret", b"secre", b"secret ", b"x" * 5000, b"secret\0", "sécret".encode(), b"\xff\xfe"):
        if name == "des" and wrong[:8] == b"secret":
            continue
        assert not htpasswd.verify(hashed, wrong), wrong


def test_known_answers() -> None:
    """From the documentation of the tools, not made by the library that verifies."""
    assert htpasswd.verify("$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", b"myPassword")
    assert htpasswd.verify("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", b"myPassword")
    assert htpasswd.verify("rqXexS6ZhobKA", b"myPassword")
    assert htpasswd.verify("$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", b"myPassword")


def test_slow_ones_are_told() -> None:
    assert {name for name, hashed in HASHES.items() if not htpasswd.is_slow(hashed)} == {"sha", "ssha", "plain"}


def test_bcrypt_looks_at_72_bytes() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert htpasswd.verify(hashed, b"x" * 72)
    assert htpasswd.verify(hashed, b"x" * 100)


@pytest.mark.parametrize(
    ("hashed", "fault"),
    [
        ("", "no password"),
        ("secret", "no kind"),
        ("$2y$31$" + "a" * 53, "cost"),
        ("$2y$03$" + "a" * 53, "cost"),
        ("$2y$10$short", "no kind"),
        ("$2x$10$" + "a" * 53, "no kind"),
        ("$6$rounds=999999999$salt$" + "a" * 86, "rounds"),
        ("$5$rounds=10$salt$" + "a" * 43, "rounds"),
        ("{SSHA}" + base64.b64encode(b"x" * 20).decode(), "short"),
        ("{SSHA}a", "base64"),
        ("{SHA}x", "no kind"),
        ("{MD5}x", "no kind"),
        ("$argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA", "no kind"),
        ("$7$abc", "no kind"),
        ("$", "no kind"),
        ("$$", "no kind"),
    ],
)
def test_hashes_that_cannot_be_used(hashed: str, fault: str) -> None:
    found = htpasswd.fault_of(hashed)
    assert fault in found
    assert not hashed or len(hashed) < 4 or hashed not in found


def test_a_file() -> None:
    text = (
        f"# staff\n\nalice:{SHA}:a comment\r\nbob:\nno colon\n:x\ncarol:{SSHA}\n" + "d" * 5000 + ":x\nalice:{PLAIN}x\n"
    )
    assert list(htpasswd.parse_file(text)) == [
        (3, "alice", SHA, ""),
        (4, "bob", "", "it has no password"),
        (5, "", "", "it has no colon"),
        (6, "", "", "it has no user name"),
        (7, "carol", SSHA, ""),
        (8, "", "", "it is too long"),
        (9, "alice", "{PLAIN}x", ""),
    ]


def test_letters_that_end_lines_elsewhere() -> None:
    user = "…".encode().decode("latin-1")  # has the byte 85, a line end to str.splitlines
    assert [entry[1] for entry in htpasswd.parse_file(f"{user}:{SHA}")] == [user]


@given(
    st.binary(max_size=200) | st.text("$26ayrounds=./:{}SHPLAIN\n#", max_size=120).map(str.encode),
    st.binary(max_size=20),
)
def test_anything_is_read_and_nothing_raises(content: bytes, password: bytes) -> None:
    for number, user, hashed, fault in htpasswd.parse_file(content.decode("latin-1")):
        assert number > 0
        assert fault or (user and hashed)
        if not fault and not hashed.startswith("$"):
            htpasswd.verify(hashed, password)
    text = content.decode("latin-1")
    if not text.startswith("$2"):  # one that costs hours is refused when it is parsed, not when it is verified
        htpasswd.verify(text, password)
