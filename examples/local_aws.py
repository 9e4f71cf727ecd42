# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""S3 and SQS on this machine (moto, over HTTP), set up as `remotegpu orchestrate` wants them: a bucket that tells a
queue of new objects, a queue for messages that always fail, and a bucket for results."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from contextlib import ExitStack, closing
from typing import Any, Self

import boto3
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

INPUT, OUTPUT = "pictures", "results"
QUEUE, DEAD_LETTERS = "pictures", "pictures-dead"
# So often a message is delivered before it goes to the dead letters.
DELIVERIES = 5
REGION = "us-east-1"


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Requests are not logged."""


class LocalAws:
    """The two services in threads of this process, in a `with` statement."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._queues: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            server = make_server(
                "127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True, request_handler=_Quiet
            )
            stack.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            self.url = f"http://127.0.0.1:{server.server_port}"
            # What this machine knows of the real AWS, and of proxies, is not asked.
            session = boto3.Session("none", "none", region_name=REGION)
            config = Config(proxies={})
            self._s3: Any = stack.enter_context(closing(session.client("s3", endpoint_url=self.url, config=config)))
            self._sqs: Any = stack.enter_context(closing(session.client("sqs", endpoint_url=self.url, config=config)))
            self._set_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """In which boto3 finds these services and none else."""
        return {
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_ENDPOINT_URL": self.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def _set_up(self) -> None:
        for bucket in (INPUT, OUTPUT):
            self._s3.create_bucket(Bucket=bucket)
        # So that a result that was written twice is seen.
        self._s3.put_bucket_versioning(Bucket=OUTPUT, VersioningConfiguration={"Status": "Enabled"})
        self._make_queue(DEAD_LETTERS)
        redrive = {"deadLetterTargetArn": self._arn(DEAD_LETTERS), "maxReceiveCount": str(DELIVERIES)}
        self._make_queue(QUEUE, RedrivePolicy=json.dumps(redrive))
        told = {"QueueConfigurations": [{"QueueArn": self._arn(QUEUE), "Events": ["s3:ObjectCreated:*"]}]}
        # The queue then gets S3's test event, as the first message of all.
        self._s3.put_bucket_notification_configuration(Bucket=INPUT, NotificationConfiguration=told)

    def _make_queue(self, name: str, **attributes: str) -> None:
        self._queues[name] = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def _asked(self, queue: str, *names: str) -> dict[str, str]:
        found: dict[str, str] = self._sqs.get_queue_attributes(
            QueueUrl=self._queues[queue], AttributeNames=list(names)
        )["Attributes"]
        return found

    def _arn(self, queue: str) -> str:
        return self._asked(queue, "QueueArn")["QueueArn"]

    def drop(self, key: str, body: bytes) -> None:
        """Puts an object into the input bucket."""
        self._s3.put_object(Bucket=INPUT, Key=key, Body=body)

    def announce_again(self, key: str) -> None:
        """One more message of a plainly named object of the input bucket: SQS delivers at least once, and S3 notifies
        at least once."""
        etag = self._s3.head_object(Bucket=INPUT, Key=key)["ETag"].strip('"')
        about = {"bucket": {"name": INPUT}, "object": {"key": key, "eTag": etag}}
        body = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": about}]})
        self._sqs.send_message(QueueUrl=self._queues[QUEUE], MessageBody=body)

    def messages(self, queue: str) -> int:
        """How many messages a queue has, held ones too."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(map(int, self._asked(queue, *names).values()))

    def results(self) -> tuple[dict[str, bytes], Counter[str]]:
        """The objects of the output bucket by their keys, and how often each was put."""
        listed = self._s3.list_object_versions(Bucket=OUTPUT).get("Versions", ())
        puts = Counter(str(version["Key"]) for version in listed)
        found = {}
        for key in puts:
            with self._s3.get_object(Bucket=OUTPUT, Key=key)["Body"] as body:
                found[key] = body.read()
        return found, puts
