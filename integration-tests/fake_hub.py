"""A Hugging Face Hub on loopback, for tests of downloads: real answers, and every trouble on demand.

Speaks the four routes that the launcher and Python's huggingface_hub use: a revision's files, its tree,
HEAD and GET of a file, large files by a redirect to another host name. Every request is noted.
"""

import contextlib
import hashlib
import json
import re
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from server import PATIENCE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", "tokenizer.json", ".bin", ".tiktoken")


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class File:
    data: bytes
    large: bool
    announced: int | None = None  # a size that the listing claims instead
    served: bytes | None = None  # bytes that arrive instead

    @property
    def size(self):
        return len(self.data) if self.announced is None else self.announced

    @property
    def etag(self):
        return hashlib.sha256(self.data).hexdigest() if self.large else git_hash(self.data)


@dataclass
class Seen:
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


@dataclass
class Trouble:
    """What goes wrong. Lists are used up from the front."""

    cuts: dict = field(default_factory=dict)  # name: bytes after which its connections close
    answers: list = field(default_factory=list)  # (status, headers) instead of the listing
    file_answers: list = field(default_factory=list)  # the same for files
    stall: dict = field(default_factory=dict)  # name: bytes after which nothing comes any more
    ignore_range: bool = False
    bare_listing: bool = False  # as some mirrors: no sizes, no hashes
    token: str | None = None  # required for everything
    gated: bool = False


class HubServer(ThreadingHTTPServer):
    # Two clients with eight connections each come at once; a refused one would be tried again a second later.
    request_queue_size = 64
    daemon_threads = True


class FakeHub:
    def __init__(self, repositories, commit=COMMIT):
        """``repositories``: {id: {file name: bytes}}."""
        self.files = {
            id: {name: File(data, name.endswith(LARGE)) for name, data in files.items()}
            for id, files in repositories.items()
        }
        self.commit = commit
        self.revisions = {"main", "v1.0", "refs/pr/1"}
        self.trouble = Trouble()
        self.seen = []
        self.lock = threading.Lock()
        self.gate = None  # an Event that file bytes beyond the first half wait for
        hub = self

        class Handler(HubHandler):
            pass

        Handler.hub = hub
        self.server = HubServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # Another name of the same machine: for a client it is another host.
        self.storage = f"http://localhost:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def encrypt(self, certificate):
        """Speaks TLS from now on, with a certificate of ``trustme``."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        # The handshake happens at the first read, on the connection's own thread.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = self.url.replace("http:", "https:")
        self.storage = self.storage.replace("http:", "https:")

    def take(self, items):
        with self.lock:
            return items.pop(0) if items else None

    def downloads(self, name=None):
        """Requests that sent bytes of a file."""
        return [s for s in self.seen if s.method == "GET" and s.sent and s.path.startswith(("/storage/", "/o/"))
                and (name is None or s.path.endswith("/" + name))]  # fmt: skip

    def bytes_sent(self, name=None):
        return sum(s.sent for s in self.downloads(name))


class HubHandler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.note = Seen(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        self.hub.seen.append(self.note)
        try:
            self.route(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def handle(self):
        # A client that does not trust the certificate hangs up in the handshake.
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            super().handle()

    def route(self, path):
        for pattern, action in (
            (r"/api/models/(?P<id>[^/]+/[^/]+)/revision/(?P<revision>.+)", self.listing),
            (r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>.+)", self.tree),
            (r"/storage/(?P<id>[^/]+/[^/]+)/(?P<name>.+)", self.content),
            (r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)", self.file),
        ):
            match = re.fullmatch(pattern, path)
            if match:
                return action(**match.groupdict())
        return self.plain(404, {"X-Error-Code": "EntryNotFound"})

    def plain(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refused(self, id):
        """Answers a request that may not be answered; whether it did."""
        trouble = self.hub.trouble
        authorized = trouble.token is not None and self.note.authorization == f"Bearer {trouble.token}"
        if trouble.gated and not authorized:
            self.plain(401 if self.note.authorization is None else 403, {"X-Error-Code": "GatedRepo"})
        elif trouble.token is not None and not authorized:
            self.plain(401)
        elif id not in self.hub.files:
            self.plain(401 if self.note.authorization is None else 404, {"X-Error-Code": "RepoNotFound"})
        else:
            return False
        return True

    def found(self, id, revision):
        """Whether the revision is there; answers when it is not."""
        trouble = self.hub.take(self.hub.trouble.answers)
        if trouble:
            self.plain(*trouble)
        elif self.refused(id):
            pass
        elif revision not in self.hub.revisions | {self.hub.commit}:
            self.plain(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def listing(self, id, revision):
        if not self.found(id, revision):
            return
        siblings = []
        for name, file in self.hub.files[id].items():
            entry = {"rfilename": name}
            if "blobs=true" in self.path.lower() and not self.hub.trouble.bare_listing:
                entry |= {"size": file.size, "blobId": git_hash(file.data)}
                if file.large:
                    entry["lfs"] = {"sha256": file.etag, "size": file.size, "pointerSize": 134}
            siblings.append(entry)
        body = {"_id": "0", "id": id, "modelId": id, "sha": self.hub.commit, "siblings": siblings}
        self.plain(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def tree(self, id, revision):
        if not self.found(id, revision):
            return
        entries = []
        for name, file in self.hub.files[id].items():
            entry = {"type": "file", "path": name, "size": file.size, "oid": git_hash(file.data)}
            if file.large:
                entry["lfs"] = {"oid": file.etag, "size": file.size, "pointerSize": 134}
            entries.append(entry)
        self.plain(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def file(self, id, revision, name):
        trouble = self.hub.take(self.hub.trouble.file_answers)
        if trouble:
            return self.plain(*trouble)
        if self.refused(id):
            return None
        file = self.hub.files[id].get(name)
        if file is None:
            return self.plain(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit})
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{file.etag}"'}
        if not file.large:
            return self.content(id, name, headers)
        return self.plain(302, headers | {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size),
                                          "Location": f"{self.hub.storage}/storage/{id}/{name}"})  # fmt: skip

    def content(self, id, name, headers=()):
        file, trouble = self.hub.files[id][name], self.hub.trouble
        data = file.data if file.served is None else file.served
        asked = None if trouble.ignore_range else re.fullmatch(r"bytes=(\d+)-(\d*)", self.note.range or "")
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        if begin >= len(data) > 0:
            return self.plain(416, {"Content-Range": f"bytes */{len(data)}"})
        self.send_response(206 if asked else 200)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if self.command != "HEAD":
            self.send_slowly(name, data[begin:end], file.large)
        return None

    def send_slowly(self, name, data, large):
        cut = self.hub.take(self.hub.trouble.cuts.get(name))
        stall = self.hub.take(self.hub.trouble.stall.get(name))
        gate = self.hub.gate if large else None
        stop = next((n for n in (cut, stall, gate and len(data) // 2) if n is not None), len(data))
        self.note.sent = len(data[:stop])
        self.wfile.write(data[:stop])
        self.wfile.flush()
        if gate is not None:
            gate.wait(PATIENCE)
            self.note.sent = len(data)  # before the client can have ended
            self.wfile.write(data[stop:])
        elif stall is not None:
            # Open, but silent: until the client gives up.
            self.connection.settimeout(PATIENCE)
            self.rfile.read(1)
        elif cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
