# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Between an orchestrator and moto's server: knows each step of a job by its request, and can stop it there.

Requests go on one at a time: moto's queues and buckets lose writes that overlap, which SQS and S3 do not. A request for
a message that waits for one is asked again and again here, so that it holds up no other and ends when one comes.
"""

from __future__ import annotations

import http.client
import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

# Paths of signs that a function gives itself: SIGN + step + "/" + key.
SIGN = "/sign/"
_POLL = 0.05
_OK, _NO_CONTENT, _PRECONDITION = 200, 204, 412
_NOT_FORWARDED = {"connection", "transfer-encoding", "content-length", "host", "server", "date", "expect"}


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen: a step of the job of a key, by the process of a name."""

    step: str
    key: str
    process: str


@dataclass(frozen=True, slots=True)
class Request:
    """As it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def process(self) -> str:
        """The name that the process has by AWS_SDK_UA_APP_ID."""
        found = re.search(r"app/([\w-]+)", self.headers.get("User-Agent", ""))
        return found[1] if found else ""

    @property
    def action(self) -> str:
        """Of SQS, such as "DeleteMessage"; "" for other services."""
        return self.headers.get("X-Amz-Target", "").rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """As it goes back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Tap(http.server.ThreadingHTTPServer):
    """In a `with` statement. `watch` is told of each sight, before the request is handed on or after it was answered,
    and returns whether the connection goes dead there."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, url: str, buckets: tuple[str, str], watch: Callable[[Sight], bool]) -> None:
        """`buckets`: of the objects, and of the results."""
        super().__init__(("127.0.0.1", 0), _Connection)
        self.watch = watch
        self._target = urlsplit(url).netloc
        self._pictures, self._results = buckets
        self._one_at_a_time = threading.Lock()
        # What follows is guarded by this, and it is notified of results that are stored.
        self.changed = threading.Condition()
        self.deliveries: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._keys: dict[str, str] = {}
        self._abandoned: set[str] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection of a process that was killed."""

    @property
    def url(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def redeliver(self, key: str, queue: str) -> None:
        """Has the message of a key delivered again though it is held; its holder's extensions come too late now."""
        with self.changed:
            receipts = [receipt for receipt, of in self._keys.items() if of == key]
            self._abandoned.update(receipts)
        body = json.dumps({"QueueUrl": queue, "ReceiptHandle": receipts[-1], "VisibilityTimeout": 0}).encode()
        target = "AmazonSQS.ChangeMessageVisibility"
        headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.0", **_UNSIGNED}
        answer = self._forward(Request("POST", "/", headers, body))
        assert answer.status == _OK, answer

    def serve(self, request: Request) -> Answer | None:
        """None: the connection goes dead."""
        asked = self._asked(request)
        if asked is not None and self.watch(asked):
            return None
        if request.path.startswith(SIGN):
            return Answer(_NO_CONTENT, {}, b"")
        if request.action == "ReceiveMessage":
            answer = self._receive(request)
        elif request.action == "ChangeMessageVisibility" and self._is_late(request):
            return Answer(_OK, {"Content-Type": "application/x-amz-json-1.0"}, b"{}")
        else:
            answer = self._forward(request)
        done = self._answered(request, answer)
        return None if done is not None and self.watch(done) else answer

    def _is_late(self, request: Request) -> bool:
        with self.changed:
            return json.loads(request.body)["ReceiptHandle"] in self._abandoned

    def _object(self, request: Request) -> tuple[str, str]:
        """The bucket, and the key of the picture that it is about."""
        bucket, _, key = unquote(urlsplit(request.path).path).lstrip("/").partition("/")
        return bucket, key.removeprefix("out/").removesuffix(".json")

    def _asked(self, request: Request) -> Sight | None:
        if request.path.startswith(SIGN):
            step, _, key = request.path.removeprefix(SIGN).partition("/")
            return Sight(step, key, request.process)
        if request.action == "DeleteMessage":
            return Sight("deleting", self._key(request), request.process)
        bucket, key = self._object(request)
        steps = {("GET", self._pictures): "invoked", ("PUT", self._results): "storing"}
        name = steps.get((request.method, bucket))
        return Sight(name, key, request.process) if name and not request.action else None

    def _answered(self, request: Request, answer: Answer) -> Sight | None:
        if request.action == "ReceiveMessage":
            return self._received(request, answer)
        if request.action == "DeleteMessage":
            return Sight("deleted", self._key(request), request.process)
        bucket, key = self._object(request)
        if request.action or bucket != self._results:
            return None
        if request.method == "PUT":
            with self.changed:
                self.stored[key] += answer.status == _OK
                self.refused[key] += answer.status == _PRECONDITION
                self.changed.notify_all()
            return Sight("stored", key, request.process) if answer.status == _OK else None
        return Sight("looked", key, request.process)

    def _key(self, request: Request) -> str:
        with self.changed:
            return self._keys.get(json.loads(request.body)["ReceiptHandle"], "")

    def _received(self, request: Request, answer: Answer) -> Sight | None:
        for message in json.loads(answer.body).get("Messages") or ():
            key = key_of(message["Body"])
            with self.changed:
                self._keys[message["ReceiptHandle"]] = key
                self.deliveries[key] += 1
            return Sight("received", key, request.process)
        return None

    def _receive(self, request: Request) -> Answer:
        asked: dict[str, Any] = json.loads(request.body)
        until = time.monotonic() + asked.pop("WaitTimeSeconds", 0)
        once = replace(request, body=json.dumps(asked | {"WaitTimeSeconds": 0}).encode())
        while True:
            answer = self._forward(once)
            if answer.status != _OK or json.loads(answer.body).get("Messages") or time.monotonic() >= until:
                return answer
            time.sleep(_POLL)  # SQS's long poll, which moto has in steps of a second

    def _forward(self, request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED}
        with self._one_at_a_time:
            connection = http.client.HTTPConnection(self._target, timeout=30)
            try:
                connection.request(request.method, request.path, request.body, headers)
                answer = connection.getresponse()
                return Answer(answer.status, dict(answer.getheaders()), answer.read())
            finally:
                connection.close()


# moto takes the region from the signature, and looks no further at it.
_UNSIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/sqs/aws4_request, Signature=none"}


def key_of(body: str) -> str:
    """The object that a message is about; "" for poison."""
    try:
        key: str = json.loads(body)["Records"][0]["s3"]["object"]["key"]
    except (ValueError, KeyError, TypeError):
        return ""
    return key


class _Connection(http.server.BaseHTTPRequestHandler):
    """One of a client's."""

    server: Tap
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        assert "Transfer-Encoding" not in self.headers, "not needed so far"
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        # Of one that died on its way S3 keeps nothing, as here.
        whole = len(body) == length
        request = Request(self.command, self.path, dict(self.headers.items()), body)
        answer = self.server.serve(request) if whole else None
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        # What is known of an object is told by its length, without a body.
        told = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(answer.body))
        self.send_header("Content-Length", told)
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def handle_expect_100(self) -> bool:
        """Says at once that the body may come: botocore waits a second for that."""
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""
