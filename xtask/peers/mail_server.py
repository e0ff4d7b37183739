"""A mail server of others: aiosmtpd, with TLS and a password demanded, and Python's own parser reading what arrived.

    mail_server.py DIRECTORY PORT [plain]

Writes a certificate for localhost to DIRECTORY/certificate.pem, and a line of JSON for each mail to DIRECTORY/mails.jsonl. It knows
the user "node" with the password "correct horse", and nobody whose address begins with "nobody". With `plain` it offers no TLS.
"""

import asyncio
import datetime
import email
import email.policy
import json
import pathlib
import signal
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DIRECTORY, PORT = pathlib.Path(sys.argv[1]), int(sys.argv[2])
PLAIN = "plain" in sys.argv[3:]


def certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (DIRECTORY / "key.pem").write_bytes(private)
    (DIRECTORY / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(DIRECTORY / "certificate.pem", DIRECTORY / "key.pem")
    return context


def authenticate(server, session, envelope, mechanism, given):
    right = (given.login, given.password) == (b"node", b"correct horse")
    return AuthResult(success=right, handled=False, auth_data=given.login.decode() if right else None)


class Inbox:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 yes"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        defects = [str(defect) for defect in mail.defects]
        defects += [f"{name}: {defect}" for name, value in mail.items() for defect in value.defects]
        read = {
            "tls": session.ssl is not None,
            "user": session.auth_data,
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "from": mail["from"],
            "to": [address.addr_spec for address in mail["to"].addresses],
            "subject": mail["subject"],
            "date": mail["date"].datetime.isoformat(),
            "auto": mail["auto-submitted"],
            "id": mail["message-id"],
            "text": mail.get_content(),
            "longest": max(len(line) for line in envelope.original_content.split(b"\r\n")),
            "defects": defects,
        }
        with open(DIRECTORY / "mails.jsonl", "a") as mails:
            print(json.dumps(read), file=mails)
        return "250 2.0.0 taken"


async def main():
    context = certificate()
    options = {} if PLAIN else {
        "tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": authenticate,
    }
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Inbox(), hostname="localhost", loop=loop, **options), "127.0.0.1", PORT
    )
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    print("listening", flush=True)
    async with server:
        await stopped.wait()


asyncio.run(main())
