"""Distinguished names as OpenSSL prints them for RFC 2253, which is what nginx's $ssl_client_s_dn holds.

The order is reversed, names are OpenSSL's short ones, and bytes outside of ASCII are escaped one by one: `CN=J\\C3\\BCrg,O=Corp`.
"""

from cryptography import x509
from cryptography.x509.name import _ASN1Type

# OpenSSL's short names (crypto/objects/objects.txt) of what is found in names; others are written as dotted numbers.
_SHORT_NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.16": "postalAddress",
    "2.5.4.17": "postalCode",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.41": "name",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.2.643.3.131.1.1": "INN",
    "1.2.643.100.1": "OGRN",
    "1.2.643.100.3": "SNILS",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionL",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionST",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionC",
}
_ESCAPED = frozenset(b',+"\\<>;')


def rfc2253(name: x509.Name) -> str:
    """`name` as `openssl x509 -nameopt RFC2253` prints it. ASCII without controls, whatever the certificate says."""
    return ",".join("+".join(_attribute(attribute) for attribute in reversed(list(rdn))) for rdn in reversed(name.rdns))


def _attribute(attribute: "x509.NameAttribute[str | bytes]") -> str:
    short = _SHORT_NAMES.get(attribute.oid.dotted_string)
    value = attribute.value
    if short is None:
        return f"{attribute.oid.dotted_string}=#{_der(attribute).hex().upper()}"
    return f"{short}={_escape(value.encode('utf-8') if isinstance(value, str) else value)}"


def _der(attribute: "x509.NameAttribute[str | bytes]") -> bytes:
    """The DER of the value: what OpenSSL dumps of attributes that it has no name for."""
    value = attribute.value
    kind = attribute._type
    if isinstance(value, bytes):
        raw = value
    else:
        encodings = {
            _ASN1Type.BMPString: "utf-16-be",
            _ASN1Type.UniversalString: "utf-32-be",
            _ASN1Type.T61String: "latin-1",
        }
        raw = value.encode(encodings.get(kind, "utf-8"))
    size = len(raw)
    length = (
        bytes((size,))
        if size < 128
        else bytes((0x80 | (size.bit_length() + 7) // 8,)) + size.to_bytes((size.bit_length() + 7) // 8, "big")
    )
    return bytes((kind.value,)) + length + raw


def _escape(raw: bytes) -> str:
    out = []
    last = len(raw) - 1
    for position, byte in enumerate(raw):
        if byte < 32 or byte > 126:
            out.append(f"\\{byte:02X}")
        elif byte in _ESCAPED or (byte == 32 and position in (0, last)) or (byte == 35 and position == 0):
            out.append("\\" + chr(byte))
        else:
            out.append(chr(byte))
    return "".join(out)
