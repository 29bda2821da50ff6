"""Certificates for servers that tests start: a CA, a server by its addresses, a client."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.setup.ca import Issued, make_authority


class Certificates:
    """A CA, a server's certificate for these addresses, and a client's."""

    def __init__(self, work: Path, *addresses: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.ca, self.work = work / "ca.crt", work
        authority = make_authority("ensemble")
        self.ca.write_bytes(authority.certificate)
        self._issue(authority, "server", [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses])
        self._issue(authority, "client", [])

    def _issue(self, authority: Issued, name: str, names: list[x509.GeneralName]) -> None:
        ca = x509.load_pem_x509_certificate(authority.certificate)
        signer = serialization.load_pem_private_key(authority.key, None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        part = NameOID.COMMON_NAME if names else NameOID.ORGANIZATION_NAME
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            # A client without a common name: etcd's gateway refuses one beside a user and a password.
            .subject_name(x509.Name([x509.NameAttribute(part, name)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(signer, hashes.SHA256())
        (self.work / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.work / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
