"""A real SMTP server for the tests: keeps every mail as a file and misbehaves where the address asks for it.

    smtp_sink.py PORT DIR

Mail number n is DIR/mail/<n>.eml (the bytes as they came) with its envelope in DIR/mail/<n>.json
({"from", "to": [...], "helo"}); the envelope is written first, so who sees the .eml finds both. n starts at 1 and goes on
after a restart. DIR/ready appears when the server listens.

The local part of a recipient says what happens to it (anything may follow the word, so each test has its own address):

    reject...            550 at RCPT, for good
    defer...             451 at RCPT, every time
    defer-once...        451 at RCPT the first time, accepted afterwards
    drop...              the mail is kept, then the connection cut before the answer: the sender cannot know
    drop-once...         as drop the first time, accepted afterwards
    lose...              the connection is cut after DATA and nothing is kept
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP

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


async def main(port: int, folder: Path):
    mail = folder / "mail"
    mail.mkdir(parents=True, exist_ok=True)
    sink = Sink(mail)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(sink, hostname="sink.test", enable_SMTPUTF8=True, data_size_limit=MAX_MAIL, loop=loop), "127.0.0.1", port
    )
    (folder / "ready").touch()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
    except KeyboardInterrupt:
        pass
