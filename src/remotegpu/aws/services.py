# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""S3, SQS and Lambda as the orchestrator needs them. The only file that imports boto3 and botocore.

Region, credentials and endpoints are boto3's business (AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, a role, ...)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from remotegpu import errors
from remotegpu.aws.answers import Delivery, FunctionFailed, Object, Queue, ServiceError

_MISSING = "boto3 is missing: pip install 'remotegpu[aws]'"
# Connections that are made within this time, and answers other than those of a function. Seconds.
CONNECT_PATIENCE, READ_PATIENCE = 5.0, 30.0
# What a function may take beyond its time until its answer is given up. Seconds.
INVOKE_MARGIN = 5.0
# Of an object that is read into memory. Bytes.
LARGEST_OBJECT = 256 * 2**20
_GONE = {"NoSuchKey", "NoSuchVersion", "404", "NotFound"}
# Statuses of answers with which a service says that it cannot answer now.
_BUSY, _BROKEN = 429, 500
# Somebody has put or deleted the object meanwhile.
_CONFLICTS = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@contextmanager
def _translated(operation: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise ServiceError(
            operation=operation,
            code=str(told.get("Code", "")),
            why=str(told.get("Message", "")),
            passing=status == _BUSY or status >= _BROKEN,
        ) from error
    except BotoCoreError as error:
        passing = not isinstance(error, ParamValidationError)
        raise ServiceError(operation=operation, code=type(error).__name__, why=str(error), passing=passing) from error


class Services:
    """The services, for many threads. `connections`: as many calls may be under way. `function_patience`: seconds that
    a function may take. All methods raise ServiceError; the constructor also ConfigurationError without boto3."""

    def __init__(self, *, connections: int = 10, function_patience: float = READ_PATIENCE) -> None:
        try:
            import boto3
            from botocore.config import Config
        except ModuleNotFoundError as error:
            raise errors.ConfigurationError(setting="AWS", why=_MISSING) from error
        retries = {"total_max_attempts": 3, "mode": "standard"}
        config = Config(
            connect_timeout=CONNECT_PATIENCE,
            read_timeout=READ_PATIENCE,
            max_pool_connections=connections,
            retries=retries,
        )
        # A function that was invoked again because its answer came late would run twice.
        once = Config(
            read_timeout=function_patience + INVOKE_MARGIN,
            retries={"total_max_attempts": 1},
            tcp_keepalive=True,
        )
        with _translated("boto3"):
            session = boto3.Session()
            if session.region_name is None:
                # botocore reads AWS_DEFAULT_REGION alone, and all other SDKs the other one.
                session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
            self._sqs: Any = session.client("sqs", config=config)
            self._s3: Any = session.client("s3", config=config)
            self._lambda: Any = session.client("lambda", config=config.merge(once))

    def close(self) -> None:
        """Ends the connections that nobody uses."""
        for client in (self._sqs, self._s3, self._lambda):
            client.close()

    # SQS.

    def queue(self, name: str) -> Queue:
        """A queue by its name or its URL, as it is set up now."""
        with _translated(f"finding queue {name}"):
            url = name if "://" in name else self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
            asked = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
        policy = json.loads(asked.get("Attributes", {}).get("RedrivePolicy", "{}"))
        most = policy.get("maxReceiveCount")
        return Queue(url, None if most is None else int(most))

    def backlog(self, queue: Queue) -> int:
        """About how many messages wait to be received."""
        name = "ApproximateNumberOfMessages"
        with _translated("GetQueueAttributes"):
            asked = self._sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=[name])
        return int(asked["Attributes"][name])

    def receive(self, queue: Queue, *, wait: int, visibility: int) -> Delivery | None:
        """One message, hidden from others for `visibility` seconds; None if none came within `wait` (0 to 20)."""
        with _translated("ReceiveMessage"):
            answer = self._sqs.receive_message(
                QueueUrl=queue.url,
                MaxNumberOfMessages=1,
                WaitTimeSeconds=wait,
                VisibilityTimeout=visibility,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            )
        for message in answer.get("Messages", ()):
            told = message.get("Attributes", {})
            return Delivery(
                id=message["MessageId"],
                receipt=message["ReceiptHandle"],
                body=message["Body"],
                count=int(told.get("ApproximateReceiveCount", 1)),
                sent_ms=int(told.get("SentTimestamp", 0)),
            )
        return None

    def hide(self, queue: Queue, delivery: Delivery, seconds: int) -> None:
        """Hides a message that is held for so many seconds from now; 0 gives it back."""
        with _translated("ChangeMessageVisibility"):
            self._sqs.change_message_visibility(
                QueueUrl=queue.url, ReceiptHandle=delivery.receipt, VisibilityTimeout=seconds
            )

    def delete(self, queue: Queue, delivery: Delivery) -> None:
        """Deletes a message that is held."""
        with _translated("DeleteMessage"):
            self._sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=delivery.receipt)

    # S3.

    def head(self, bucket: str, key: str, version: str | None = None) -> Object | None:
        """What is known of an object; None if there is none (or one that was deleted)."""
        which = {} if version is None else {"VersionId": version}
        try:
            with _translated(f"HeadObject s3://{bucket}/{key}"):
                found = self._s3.head_object(Bucket=bucket, Key=key, **which)
        except ServiceError as error:
            # 405: the version is a delete marker.
            if error.code in _GONE | {"405", "MethodNotAllowed"}:
                return None
            if error.code in {"403", "AccessDenied", "Forbidden"}:
                error.why += "; that an object is not there is told only to who has s3:ListBucket on its bucket"
            raise
        return Object(found["ETag"].strip('"'), int(found["ContentLength"]), found.get("Metadata", {}))

    def check_bucket(self, bucket: str) -> None:
        """Raises ServiceError if there is no such bucket: `head` cannot tell that from an object that is not there."""
        with _translated(f"HeadBucket s3://{bucket}"):
            self._s3.head_bucket(Bucket=bucket)

    def get(self, bucket: str, key: str, version: str | None = None, *, limit: int = LARGEST_OBJECT) -> bytes | None:
        """An object's bytes; None if there is none. Raises InvalidInput, before it is read, for one that is larger than
        `limit` bytes."""
        which = {} if version is None else {"VersionId": version}
        try:
            with _translated(f"GetObject s3://{bucket}/{key}"):
                found = self._s3.get_object(Bucket=bucket, Key=key, **which)
                with found["Body"] as body:
                    if found["ContentLength"] > limit:
                        given = f"{found['ContentLength']} bytes"
                        raise errors.InvalidInput(field=f"s3://{bucket}/{key}", limit=f"{limit} bytes", given=given)
                    data: bytes = body.read()
        except ServiceError as error:
            if error.code in _GONE:
                return None
            raise
        return data

    def put(
        self,
        where: tuple[str, str],
        body: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        instead_of: str | None = None,
    ) -> bool:
        """Puts an object at (bucket, key) if there is none, or only `instead_of` the one of that ETag; False if what is
        there is another (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html)."""
        bucket, key = where
        condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": f'"{instead_of}"'}
        try:
            with _translated(f"PutObject s3://{bucket}/{key}"):
                self._s3.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=body,
                    ContentType=content_type,
                    Metadata=dict(metadata),
                    **condition,
                )
        except ServiceError as error:
            if error.code in _CONFLICTS or (instead_of is not None and error.code in _GONE):
                return False
            raise
        return True

    # Lambda.

    def invoke(self, function: str, payload: bytes) -> bytes:
        """A function's answer to a JSON payload, waited for and asked for once. Raises FunctionFailed for an error of
        the function's."""
        with _translated(f"Invoke {function}"):
            answer = self._lambda.invoke(FunctionName=function, InvocationType="RequestResponse", Payload=payload)
            with answer["Payload"] as stream:
                body: bytes = stream.read()
        if answer.get("FunctionError"):
            raise FunctionFailed(function=function, why=_error_text(body))
        return body


def _error_text(body: bytes) -> str:
    try:
        told = json.loads(body)
        return f"{told['errorType']}: {told['errorMessage']}"
    except (ValueError, KeyError, TypeError):
        return body[:1000].decode(errors="replace")
