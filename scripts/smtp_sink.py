"""A real SMTP server for the tests: keeps every mail as a file and misbehaves where the address asks for it.

    smtp_sink.py PORT DIR [--tls starttls|wrapped --cert FILE --key FILE] [--auth USER:PASSWORD]

With starttls it takes a mail only after STARTTLS, with wrapped TLS begins with the first byte; with --auth only after
these credentials. PORT 0 means a free one.

Mail number n is DIR/mail/<n>.eml (the bytes as they came) with its envelope in DIR/mail/<n>.json
({"from", "to": [...], "helo"}); the envelope is written first, so who sees the .eml finds both. n starts at 1 and goes on
after a restart. DIR/ready appears when the server listens, with its port in it.

The local part of a recipient says what happens to it (anything may follow the word, so each test has its own address):

    reject...            550 at RCPT, for good
    defer...             451 at RCPT, every time
    defer-once...        451 at RCPT the first time, accepted afterwards
    drop...              the mail is kept, then the connection cut before the answer: the sender cannot know
    drop-once...         as drop the first time, accepted afterwards
    hang-once...         the mail is kept the first time, but the answer never comes; accepted afterwards
    lose...              the connection is cut after DATA and nothing is kept
"""

import argparse
import asyncio
import json
import os
import ssl
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult

MAX_MAIL = 32 * 1024 * 1024


class Sink:
    def __init__(self, folder: Path):
        self.folder = folder
        self.count = max((int(mail.stem) for mail in folder.glob("*.eml")), default=0)
        self.seen: set[str] = set()

    def first_time(self, address: str) -> bool:
        first = address not in self.seen
        self.seen.add(address)
        return first

    async def handle_RCPT(self, server, session, envelope, address, options):
        word = address.lower()
        if word.startswith("reject"):
            return "550 5.1.1 no such mailbox here"
        if word.startswith("defer-once"):
            if self.first_time(word):
                return "451 4.3.0 try again later"
        elif word.startswith("defer"):
            return "451 4.3.0 try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        words = [address.lower() for address in envelope.rcpt_tos]
        if any(word.startswith("lose") for word in words):
            return self.cut(server)
        number = self.keep(session, envelope)
        for word in words:
            if word.startswith("hang-once") and self.first_time(word):
                await asyncio.Event().wait()
            once = word.startswith("drop-once")
            if (once and self.first_time(word)) or (word.startswith("drop") and not once):
                return self.cut(server)
        return f"250 2.0.0 kept as {number}"

    def keep(self, session, envelope) -> int:
        self.count += 1
        about = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "helo": session.host_name}
        self.write(f"{self.count}.json", json.dumps(about).encode())
        self.write(f"{self.count}.eml", envelope.original_content)
        return self.count

    def write(self, name: str, content: bytes):
        """Whole or not at all, for a test that reads while this writes."""
        part = self.folder / f".{name}.part"
        part.write_bytes(content)
        os.replace(part, self.folder / name)

    @staticmethod
    def cut(server):
        server.transport.abort()
        # aiosmtpd still writes this answer, into a closed connection.
        return "421 4.3.0 cut"


def options(asked) -> dict:
    """What the server is told of TLS and passwords."""
    told = {}
    if asked.tls == "starttls":
        told |= {"tls_context": tls(asked), "require_starttls": True}
    if asked.auth:
        user, password = asked.auth.split(":", 1)

        def known(server, session, envelope, mechanism, data):
            # Not handled: aiosmtpd is to say 535 itself.
            known = (data.login, data.password) == (user.encode(), password.encode())
            return AuthResult(success=known, handled=False)

        # aiosmtpd does not see that a wrapped connection is encrypted.
        told |= {"authenticator": known, "auth_required": True, "auth_require_tls": asked.tls == "starttls"}
    return told


def tls(asked) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(asked.cert, asked.key)
    return context


async def main(asked):
    mail = asked.folder / "mail"
    mail.mkdir(parents=True, exist_ok=True)
    sink = Sink(mail)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(
            sink, hostname="sink.test", enable_SMTPUTF8=True, data_size_limit=MAX_MAIL, loop=loop, **options(asked)
        ),
        "127.0.0.1",
        asked.port,
        ssl=tls(asked) if asked.tls == "wrapped" else None,
    )
    part = asked.folder / ".ready.part"
    part.write_text(str(server.sockets[0].getsockname()[1]))
    os.replace(part, asked.folder / "ready")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tls", choices=["starttls", "wrapped"])
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--auth")
    try:
        asyncio.run(main(parser.parse_args()))
    except KeyboardInterrupt:
        pass
