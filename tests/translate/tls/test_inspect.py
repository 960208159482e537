"""One Secret, taken apart: what is taken, what is put right, what is refused and in which words."""

import base64
import re
from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.model import Secret
from ingress.translate.tls import inspect
from ingress.translate.tls.authority import inspect_authority
from ingress.translate.tls.inspect import KeyPair, Unusable, covers, facts_of_chain, inspect_pair, inspect_secret
from tests.certificates import NOW, certificate, issue, key, revocations, secret_of, tls_secret

ROOT = issue(common_name="root", ca=True, number=10)
MIDDLE = issue(common_name="middle", by=ROOT, ca=True, number=11)
LEAF = issue("a.test", "*.b.test", common_name="leaf", by=MIDDLE, number=12)
OTHER = certificate("other.test", number=13)


def refusal(secret: Secret) -> Unusable:
    with pytest.raises(Unusable) as found:
        inspect_secret(secret)
    for block in re.findall(r"[A-Za-z0-9+/=]{40,}", str(found.value)):
        pytest.fail(f"part of a value in the message: {block}")
    return found.value


def chain_of(pair: KeyPair) -> list[str]:
    return [
        pem + "-----END CERTIFICATE-----\n"
        for pem in pair.certificate.chain.decode().split("-----END CERTIFICATE-----\n")[:-1]
    ]


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("ec", "ECDSA"), ("p384", "ECDSA"), ("rsa", "RSA"), ("ed25519", "Ed25519"), ("ed448", "Ed448")],
)
def test_kinds_of_keys(kind: str, algorithm: str) -> None:
    made = certificate("a.test", kind=kind)
    pair = inspect_secret(tls_secret(made))
    assert pair.facts.key_algorithm == algorithm
    assert pair.certificate.chain.decode() == made.pem
    assert pair.certificate.private_key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert pair.remarks == ()
    assert facts_of_chain(pair.certificate.chain) == pair.facts


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_keys_in_their_traditional_form(kind: str) -> None:
    made = certificate("a.test", kind=kind)
    old = inspect_secret(secret_of({"tls.crt": made.pem, "tls.key": made.key_as("traditional")}))
    assert old.certificate == inspect_secret(tls_secret(made)).certificate


def test_facts() -> None:
    facts = inspect_secret(tls_secret(LEAF, chain=[MIDDLE])).facts
    assert facts.names == ("a.test", "*.b.test")
    assert (facts.subject, facts.issuer, facts.issuer_common_name) == ("CN=leaf", "CN=middle", "middle")
    assert facts.serial_number == LEAF.certificate.serial_number
    assert facts.not_after == NOW + timedelta(days=90)
    assert facts.fingerprint == LEAF.certificate.fingerprint(hashes.SHA256()).hex()


def test_the_key_is_of_the_content() -> None:
    one, same = inspect_secret(tls_secret(LEAF, "x")), inspect_secret(tls_secret(LEAF, "y", "elsewhere"))
    assert one.certificate == same.certificate
    assert one.certificate.key != inspect_secret(tls_secret(LEAF, chain=[MIDDLE])).certificate.key


def test_string_data_wins_and_any_type_will_do() -> None:
    secret = msgspec.convert(
        {
            "metadata": {"name": "x", "namespace": "d"},
            "type": "Opaque",
            "stringData": {"tls.crt": LEAF.pem, "tls.key": LEAF.key_pem},
            "data": {"tls.crt": "!"},
        },
        Secret,
    )
    assert inspect_secret(secret).facts.names == ("a.test", "*.b.test")


def test_an_expired_certificate_is_served_all_the_same() -> None:
    old = issue("a.test", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=1))
    assert inspect_secret(tls_secret(old)).facts.not_after < NOW


# ---- chains ----


@pytest.mark.parametrize(
    ("given_", "expected", "remark"),
    [
        ([LEAF], [LEAF], ""),
        ([LEAF, MIDDLE], [LEAF, MIDDLE], ""),
        ([LEAF, MIDDLE, ROOT], [LEAF, MIDDLE, ROOT], ""),
        ([MIDDLE, LEAF], [LEAF, MIDDLE], "does not come first"),
        ([ROOT, MIDDLE, LEAF], [LEAF, MIDDLE, ROOT], "does not come first"),
        ([LEAF, ROOT, MIDDLE], [LEAF, MIDDLE, ROOT], "signed by the next"),
        ([LEAF, OTHER, MIDDLE], [LEAF, MIDDLE], "1 of its 3 certificates"),
        ([OTHER, LEAF], [LEAF], "does not come first, and 1 of its 2"),
        ([LEAF, LEAF], [LEAF], "1 of its 2"),
    ],
)
def test_order_of_chains(given_: list, expected: list, remark: str) -> None:
    pair = inspect_pair("".join(one.pem for one in given_).encode(), LEAF.key_pem.encode())
    assert chain_of(pair) == [one.pem for one in expected]
    assert [remark in text for text in pair.remarks] == ([True] if remark else [])


def test_text_around_the_blocks_does_not_matter() -> None:
    pem = f"subject=CN = leaf\r\n{LEAF.pem}\n# root follows\n{MIDDLE.pem}".replace("\n", "\r\n")
    assert chain_of(inspect_pair(pem.encode(), LEAF.key_pem.encode())) == [LEAF.pem, MIDDLE.pem]


# ---- refusals ----


def dsa_key() -> str:
    made = dsa.generate_private_key(2048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def damaged(pem: str) -> str:
    lines = pem.splitlines()
    lines[2] = "A" * 64
    return "\n".join(lines)


CRT, KEY = LEAF.pem, LEAF.key_pem


@pytest.mark.parametrize(
    ("data", "field", "why"),
    [
        ({}, "tls.crt", "no such key"),
        ({"tls.crt": CRT}, "tls.key", "no such key"),
        ({"tls.key": KEY}, "tls.crt", "no such key"),
        ({"tls.crt": "", "tls.key": KEY}, "tls.crt", "it is empty"),
        ({"tls.crt": CRT, "tls.key": " \n"}, "tls.key", "it is empty"),
        ({"tls.crt": "garbage", "tls.key": KEY}, "tls.crt", "no PEM block CERTIFICATE"),
        ({"tls.crt": KEY, "tls.key": KEY}, "tls.crt", "no PEM block CERTIFICATE"),
        ({"tls.crt": b"\xff\x00", "tls.key": KEY}, "tls.crt", "no PEM block CERTIFICATE"),
        ({"tls.crt": damaged(CRT), "tls.key": KEY}, "tls.crt", "can't be read as PEM"),
        ({"tls.crt": CRT[:200], "tls.key": KEY}, "tls.crt", "can't be read as PEM"),
        ({"tls.crt": CRT, "tls.key": "garbage"}, "tls.key", "no PEM block"),
        ({"tls.crt": CRT, "tls.key": CRT}, "tls.key", "can't be read as a private key"),
        ({"tls.crt": CRT, "tls.key": damaged(KEY)}, "tls.key", "can't be read as a private key"),
        ({"tls.crt": CRT, "tls.key": LEAF.key_as("pkcs8", "pass")}, "tls.key", "it is encrypted"),
        ({"tls.crt": CRT, "tls.key": LEAF.key_as("traditional", "pass")}, "tls.key", "it is encrypted"),
        ({"tls.crt": CRT, "tls.key": OTHER.key_pem}, "tls.key", "does not belong to a certificate of tls.crt"),
        ({"tls.crt": CRT, "tls.key": dsa_key()}, "tls.key", "keys of its kind are not supported"),
        ({"tls.crt": CRT * 21, "tls.key": KEY}, "tls.crt", "more than 20 certificates"),
        ({"tls.crt": CRT + "x" * (128 << 10), "tls.key": KEY}, "tls.crt", "larger than 128 KiB"),
        ({"tls.crt": CRT, "tls.key": KEY + "x" * (32 << 10)}, "tls.key", "larger than 32 KiB"),
        ({"tls.crt": CRT + "x" * (900 << 10), "tls.key": KEY}, "tls.crt", "larger than 128 KiB"),
    ],
)
def test_refusals(data: dict[str, str], field: str, why: str) -> None:
    found = refusal(secret_of(data))
    assert found.key == field
    assert why in found.why


def test_a_missing_key_in_a_secret_of_another_type_names_the_type() -> None:
    assert "its type is Opaque" in refusal(secret_of({}, type="Opaque")).why


def test_not_base64() -> None:
    secret = msgspec.convert({"metadata": {"name": "x"}, "data": {"tls.crt": "%%%", "tls.key": "AAA"}}, Secret)
    assert (refusal(secret).key, refusal(secret).why) == ("tls.crt", "it is not base64")


@pytest.mark.parametrize(
    ("kind", "why"), [("rsa1024", "2048 to 8192 bits, and it has 1024"), ("k256", "its curve secp256k1 is not one")]
)
def test_keys_that_clients_or_openssl_refuse(kind: str, why: str) -> None:
    found = refusal(tls_secret(issue("a.test", kind=kind)))
    assert (found.key, why in found.why) == ("tls.key", True)


def test_a_weak_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library signs with SHA-1 any more, so another hash plays it."""
    monkeypatch.setattr(inspect, "_WEAK_HASHES", frozenset(("sha256",)))
    assert "signed with SHA256, which no client accepts" in refusal(tls_secret(LEAF)).why
    assert inspect_secret(tls_secret(certificate("a.test"))).remarks == ()  # nobody checks a self-signature


def test_an_rsa_key_whose_private_numbers_are_of_another() -> None:
    """What is written as its public half proves nothing."""
    mine, theirs = key("rsa", 1).private_numbers(), key("rsa", 2).private_numbers()
    made = certificate("a.test", kind="rsa", number=1)
    forged = rsa.RSAPrivateNumbers(
        theirs.p, theirs.q, theirs.d, theirs.dmp1, theirs.dmq1, theirs.iqmp, mine.public_numbers
    )
    pem = _unchecked_rsa_pem(forged)
    found = refusal(secret_of({"tls.crt": made.pem, "tls.key": pem}))
    assert found.key == "tls.key"
    assert "contradict" in found.why or "can't be read" in found.why


def _unchecked_rsa_pem(n: rsa.RSAPrivateNumbers) -> str:
    """RFC 8017 RSAPrivateKey, written by hand because libraries check."""

    def der(value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "big")
        return b"\x02" + length(len(raw)) + raw

    def length(n: int) -> bytes:
        return bytes([n]) if n < 128 else b"\x82" + n.to_bytes(2, "big")

    numbers = (0, n.public_numbers.n, n.public_numbers.e, n.d, n.p, n.q, n.dmp1, n.dmq1, n.iqmp)
    body = b"".join(der(value) for value in numbers)
    text = base64.encodebytes(b"\x30" + length(len(body)) + body).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{text}-----END RSA PRIVATE KEY-----\n"


def test_an_ec_key_that_claims_the_public_half_of_another() -> None:
    mine, theirs = key("ec", 1), key("ec", 2)
    made = certificate("a.test", number=1)
    genuine = theirs.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    stolen = mine.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert len(genuine) == len(stolen)
    forged = genuine[:-65] + stolen[-65:]  # the public point stands last
    pem = f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(forged).decode()}-----END EC PRIVATE KEY-----\n"
    assert refusal(secret_of({"tls.crt": made.pem, "tls.key": pem})).key == "tls.key"
    assert isinstance(theirs, ec.EllipticCurvePrivateKey)


@settings(max_examples=200, deadline=None)
@given(chain=st.binary(max_size=300), cut=st.integers(0, 2000), at=st.integers(0, 2000), byte=st.integers(0, 255))
def test_no_bytes_raise_anything_else(chain: bytes, cut: int, at: int, byte: int) -> None:
    bent = bytearray(CRT.encode())
    bent[at % len(bent)] = byte
    for data in (
        {"tls.crt": chain, "tls.key": KEY},
        {"tls.crt": CRT, "tls.key": chain},
        {"tls.crt": bytes(bent)[:cut] + chain, "tls.key": KEY},
        {"tls.crt": bytes(bent), "tls.key": KEY},
        {
            "tls.crt": b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(chain) + b"\n-----END CERTIFICATE-----\n",
            "tls.key": KEY,
        },
        {
            "tls.crt": CRT,
            "tls.key": b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(chain) + b"\n-----END PRIVATE KEY-----\n",
        },
    ):
        try:
            inspect_secret(secret_of(data))
        except Unusable:
            pass


# ---- names ----


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (("a.test",), "a.test", True),
        (("a.test",), "b.test", False),
        (("*.test",), "a.test", True),
        (("*.test",), "b.a.test", False),
        (("*.test",), "test", False),
        (("*.test",), "*.test", True),
        (("a.test",), "*.test", False),
        (("*.a.test",), "*.b.a.test", False),
        (("*",), "test", False),
        ((), "a.test", False),
    ],
)
def test_covers(names: tuple[str, ...], host: str, expected: bool) -> None:
    assert covers(names, host) is expected


def test_the_common_name_counts_without_alternative_names_only() -> None:
    assert inspect_secret(tls_secret(issue(common_name="Old.Test"))).facts.names == ("old.test",)
    assert inspect_secret(tls_secret(issue("New.test.", common_name="old.test"))).facts.names == ("new.test",)


# ---- authorities ----


def test_authority() -> None:
    ca, crl = inspect_authority(secret_of({"ca.crt": ROOT.pem + MIDDLE.pem, "ca.crl": revocations(ROOT, MIDDLE)}))
    assert ca.decode() == ROOT.pem + MIDDLE.pem
    assert crl.startswith(b"-----BEGIN X509 CRL-----")
    assert inspect_authority(secret_of({"ca.crt": ROOT.pem}))[1] == b""


@pytest.mark.parametrize(
    ("data", "field", "why"),
    [
        ({}, "ca.crt", "no such key"),
        ({"tls.crt": CRT, "tls.key": KEY}, "ca.crt", "no such key"),
        ({"ca.crt": ""}, "ca.crt", "empty"),
        ({"ca.crt": "garbage"}, "ca.crt", "no certificate"),
        ({"ca.crt": damaged(CRT)}, "ca.crt", "no certificate"),
        ({"ca.crt": ROOT.pem, "ca.crl": "garbage"}, "ca.crl", "no PEM block X509 CRL"),
        ({"ca.crt": ROOT.pem, "ca.crl": ""}, "ca.crl", "empty"),
        ({"ca.crt": ROOT.pem, "ca.crl": damaged(revocations(ROOT))}, "ca.crl", "can't be read"),
    ],
)
def test_authorities_refused(data: dict[str, str], field: str, why: str) -> None:
    with pytest.raises(Unusable) as found:
        inspect_authority(secret_of(data))
    assert found.value.key == field
    assert why in found.value.why
