"""Distinguished names: what OpenSSL prints is the judge."""

import subprocess

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from ingress.tls.names import rfc2253
from tests.tls.support import pem, root

Attribute = x509.NameAttribute
ROOT = root()


def by_openssl(certificate: bytes) -> str:
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253"],
        input=certificate,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().removeprefix("subject=").removesuffix("\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (x509.Name([Attribute(NameOID.COMMON_NAME, "a")]), "CN=a"),
        (
            x509.Name([Attribute(NameOID.COUNTRY_NAME, "DE"), Attribute(NameOID.ORGANIZATION_NAME, "Corp, Inc."), Attribute(NameOID.COMMON_NAME, "a")]),
            "CN=a,O=Corp\\, Inc.,C=DE",
        ),
        (x509.Name([Attribute(NameOID.COMMON_NAME, "Jürg 😀")]), "CN=J\\C3\\BCrg \\F0\\9F\\98\\80"),
        (x509.Name([Attribute(NameOID.COMMON_NAME, " #a\"+,;<>\\=# ")]), None),
        (x509.Name([Attribute(NameOID.COMMON_NAME, "#a")]), None),
        (x509.Name([Attribute(NameOID.COMMON_NAME, "a\nb\x00c\x7f")]), None),
        (x509.Name([Attribute(NameOID.EMAIL_ADDRESS, "a@b.example"), Attribute(NameOID.USER_ID, "u1")]), None),
        (x509.Name([Attribute(NameOID.DOMAIN_COMPONENT, "example"), Attribute(NameOID.SERIAL_NUMBER, "007")]), None),
        (x509.Name([x509.RelativeDistinguishedName([Attribute(NameOID.COMMON_NAME, "a"), Attribute(NameOID.USER_ID, "b")])]), None),
        (x509.Name([Attribute(ObjectIdentifier("1.2.3.4.5"), "secret")]), None),
        (x509.Name([Attribute(ObjectIdentifier("1.2.3.4.5"), "x" * 200)]), None),
        (x509.Name([Attribute(NameOID.COMMON_NAME, "bmp ü", _type=_ASN1Type.BMPString)]), None),
        *(
            (x509.Name([Attribute(oid, "ab")]), None)
            for oid in vars(NameOID).values()
            if isinstance(oid, ObjectIdentifier)
        ),
    ],
)  # fmt: skip
def test_as_openssl(name, text):
    certificate = pem(ROOT.sign("", subject=name).certificate)
    found = rfc2253(x509.load_pem_x509_certificate(certificate).subject)
    assert found == by_openssl(certificate)
    assert text is None or found == text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10), max_size=4))
def test_nothing_in_a_name_ends_a_line_or_a_header(values):
    found = rfc2253(x509.Name([Attribute(NameOID.COMMON_NAME, value) for value in values]))
    assert found.isascii()
    assert all(char.isprintable() for char in found)
