# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu orchestrate` between a real HTTP server of S3 and SQS (moto's) and a real remotegpu server."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from remotegpu import Client, errors
from remotegpu.local import LocalServer
from tests import orchestration
from tests.conftest import DIGITS, StartServer, pids, wait_until
from tests.orchestration import Aws, Cloud, Working, leases

HANDLER = "handler:tests.orchestration:"


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    running = Aws()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.stop()


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    orchestration.seen.clear()
    orchestration.failures.clear()
    orchestration.gate.clear()
    return aws.cloud()


Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def command(cloud: Cloud, single: LocalServer) -> Iterator[Command]:
    """Starts the real command, with what to invoke and more options; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(invoke: str, *more: str, **environment: str) -> subprocess.Popen[str]:
        running.append(orchestration.command(cloud, single.url, invoke, *more, **environment))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def single(models: Path) -> Iterator[LocalServer]:
    """A server whose one device takes one lease at a time."""
    running = LocalServer(["--gpus", "cpu", "--slots", "1", "--arena", "16MiB", "--models", str(models)])
    yield running
    assert running.stop() == 0


def test_a_picture_becomes_a_result_and_the_test_event_goes_away(
    cloud: Cloud, single: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTEGPU_URL", single.url)
    cloud.notify()
    cloud.put("bilder/größe + 100% #1.png")
    with Working(cloud, single.url, HANDLER + "sums") as working, Client(single.url) as client:
        (job,) = working.until(1)
        wait_until(lambda: cloud.count() == (0, 0), "both messages are deleted")
        wait_until(lambda: not leases(client), "the lease is given back")
    assert (job.outcome.value, job.error, working.told.notes) == ("done", "", [])
    assert cloud.keys() == ["out/bilder/größe + 100% #1.png.json"]
    found = cloud.result(cloud.keys()[0])
    assert json.loads(found["Body"]) == {"sum": 10.0}
    assert found["ContentType"] == "application/json"
    assert found["Metadata"]["remotegpu-job"] == job.job


def test_models_take_pictures_and_arrays(cloud: Cloud, server: LocalServer) -> None:
    picture = (DIGITS / "pictures" / "note.jpg").read_bytes()
    file, array = io.BytesIO(), np.ones((2, 64), np.float32)
    np.save(file, array)
    cloud.send({"Records": [cloud.record("note.jpg", cloud.put("note.jpg", picture))]})
    with Working(cloud, server.url, "model:digits") as working:
        assert [job.error for job in working.until(1)] == [""]
    with np.load(io.BytesIO(cloud.result("out/note.jpg.npz")["Body"])) as outputs:
        assert outputs["boxes"].shape == (len(outputs["scores"]), 4)
    cloud.send({"Records": [cloud.record("a.npy", cloud.put("a.npy", file.getvalue()))]})
    cloud.send({"Records": [cloud.record("b.npy", cloud.put("b.npy", b"\x93NUMPY, cut short"))]})
    output = f"s3://{cloud.results}/{{bucket}}/{{stem}}.json"
    with Working(cloud, server.url, "model:linear:1", output=output) as working, Client(server.url) as client:
        good, bad = sorted(working.until(2)[:2], key=lambda job: job.key)
        (expected,) = client.model("linear")(array).values()
    assert good.error == ""
    assert bad.error.startswith("InvalidInput: object: given ")
    (found,) = json.loads(cloud.result(f"{cloud.pictures}/a.json")["Body"]).values()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_is_announced_twice_runs_once_and_a_new_version_again(cloud: Cloud, single: LocalServer) -> None:
    cloud.notify()
    first = cloud.put("a.png", b"1")
    cloud.send({"Records": [cloud.record("a.png", first), cloud.record("a.png", first)]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        assert sorted(job.outcome.value for job in working.until(2)) == ["done", "duplicate"]
        second = cloud.put("a.png", b"2")
        assert working.until(3)[2].outcome.value == "done"
        cloud.send({"Records": [cloud.record("a.png", first)]})  # late, and its object is another by now
        assert working.until(4)[3].outcome.value == "superseded"
        wait_until(lambda: cloud.count() == (0, 0), "all are deleted")
    assert [event["etag"] for event in orchestration.seen] == [first, second]
    assert cloud.result("out/a.png.json")["Metadata"]["remotegpu-version"] == second


def test_a_result_never_takes_the_place_of_something_else(cloud: Cloud, single: LocalServer) -> None:
    cloud.aws.s3.put_object(Bucket=cloud.results, Key="out/a.png.json", Body=b"mine")
    cloud.send({"Records": [cloud.record("a.png", cloud.put("a.png"))]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        assert "where something else is" in working.until(1)[0].error
    assert cloud.result("out/a.png.json")["Body"] == b"mine"
    assert not orchestration.seen


def test_of_two_results_of_one_version_the_first_stays(cloud: Cloud, single: LocalServer) -> None:
    cloud.send({"Records": [cloud.record("a.png", cloud.put("a.png"))]})
    with Working(cloud, single.url, HANDLER + "overtaken") as working:
        assert working.until(1)[0].outcome.value == "duplicate"
        wait_until(lambda: cloud.count() == (0, 0), "the message is deleted")
    assert cloud.result("out/a.png.json")["Body"] == b"first"


def test_several_records_and_one_that_is_gone(cloud: Cloud, single: LocalServer) -> None:
    records = [cloud.record(key, cloud.put(key)) for key in ("a", "b")]
    cloud.send({"Records": [records[0], cloud.record("gone"), records[1]]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        outcomes = {job.key: job.outcome.value for job in working.until(3)}
        wait_until(lambda: cloud.count() == (0, 0), "the message is deleted")
    assert outcomes == {"a": "done", "gone": "vanished", "b": "done"}
    assert working.told.notes == [f"s3://{cloud.pictures}/gone is no longer there: nothing to do"]
    assert cloud.keys() == ["out/a.json", "out/b.json"]


def test_poison_goes_to_the_dead_letters_and_keeps_nobody(aws: Aws, cloud: Cloud, single: LocalServer) -> None:
    cloud = aws.cloud(most=2)
    cloud.send("not JSON")
    cloud.send({"Records": [{"eventName": "ObjectCreated:Put"}]})
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        assert working.until(1)[0].outcome.value == "done"
        wait_until(lambda: cloud.count(cloud.dead) == (2, 0), "both are with the dead letters")
    assert cloud.count() == (0, 0)
    assert len(working.told.notes) == 4
    assert all("allowed: an event notification of S3" in note for note in working.told.notes)


def test_a_function_that_fails_is_tried_again(cloud: Cloud, single: LocalServer) -> None:
    orchestration.failures += [SystemExit(3), ValueError("not today")]
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    with Working(cloud, single.url, HANDLER + "failing") as working, Client(single.url) as client:
        jobs = working.until(3)
        wait_until(lambda: not leases(client), "all leases are given back")
    assert [job.error for job in jobs] == ["ValueError: not today", "SystemExit: 3", ""]
    assert [job.delivery for job in jobs] == [1, 2, 3]
    assert cloud.result("out/a.json")["Body"] == b'"well"'


def test_while_one_waits_for_a_device_no_other_is_received(cloud: Cloud, single: LocalServer) -> None:
    for key in ("a", "b", "c"):
        cloud.send({"Records": [cloud.record(key, cloud.put(key))]})
    with Working(cloud, single.url, HANDLER + "held", visibility=3) as working, Client(single.url) as client:
        wait_until(lambda: len(client.top().queue) == 1, "the second job waits in the scheduler's queue")
        assert len(orchestration.seen) == 1
        # Longer than the visibility: both are still held, and the third one still waits where all can have it.
        with pytest.raises(AssertionError, match="not within"):
            wait_until(lambda: cloud.count() != (1, 2) or len(client.top().queue) != 1, "never", 4)
        orchestration.gate.set()
        assert [job.delivery for job in working.until(3)] == [1, 1, 1]
        wait_until(lambda: cloud.count() == (0, 0), "all are deleted")
    assert len(orchestration.seen) == 3


def test_who_gets_no_device_in_time_goes_back_to_the_queue(cloud: Cloud, single: LocalServer) -> None:
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    working = Working(cloud, single.url, HANDLER + "echo", reservation_timeout=0.3)
    with Client(single.url) as client, client.alloc() as other, working:
        wait_until(lambda: working.told.notes, "it is told")
        other.dealloc()
        (job,) = working.until(1)
    assert "goes back to the queue: busy after 0.3 s" in working.told.notes[0]
    assert (job.outcome.value, job.delivery > 1) == ("done", True)


def test_a_result_that_never_comes_costs_the_lease_and_not_the_message(cloud: Cloud, single: LocalServer) -> None:
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    working = Working(cloud, single.url, HANDLER + "deaf", result_timeout=0.5, in_flight=2)
    # The second delivery gets the only slot, since the first one's lease was taken back.
    with pytest.raises(errors.ConfigurationError, match="2 jobs still run though their time was over"):
        working.runner.run()
    working.close()
    with Client(single.url) as client:
        assert not leases(client)
    assert ["no result within 0.5 s" in job.error for job in working.told.jobs] == [True, True]
    wait_until(lambda: cloud.count() == (1, 0), "the message is there again")
    orchestration.gate.set()


def test_a_worker_that_dies_costs_a_delivery(
    cloud: Cloud, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    monkeypatch.setenv("REMOTEGPU_URL", server.url)
    with Client(server.url) as client:
        orchestration.victims += pids(client)
    with Working(cloud, server.url, HANDLER + "killing") as working:
        first, second = working.until(2)
    assert first.error.startswith("LeaseLost")
    assert (second.outcome.value, second.delivery) == ("done", 2)


@pytest.mark.slow
def test_a_scheduler_that_is_away_costs_one_delivery(cloud: Cloud, start_server: StartServer) -> None:
    server = start_server()
    url, port = server.url, server.port
    server.stop()
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    with Working(cloud, url, HANDLER + "echo") as working:
        wait_until(lambda: len(working.told.notes) >= 2, "it is asked again")
        assert cloud.count() == (1, 0)
        start_server("--listen", f"127.0.0.1:{port}")
        (job,) = working.until(1)
    assert job.delivery == 2
    assert all("nothing answered at" in note for note in working.told.notes)


def test_the_command_ends_at_sigterm_and_gives_back_what_it_holds(
    cloud: Cloud, single: LocalServer, command: Command, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    process = command(HANDLER + "forever", ORCHESTRATION_STARTED=str(started))
    wait_until(started.exists, "the job runs", 20)
    with Client(single.url) as client:
        assert leases(client) == 1
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=15)
        assert (process.returncode, complaints) == (0, "")
        assert cloud.count() == (1, 0)
        assert not leases(client)


@pytest.mark.slow
def test_a_second_signal_ends_the_command_at_once(
    cloud: Cloud, single: LocalServer, command: Command, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    process = command(HANDLER + "forever", ORCHESTRATION_STARTED=str(started))
    wait_until(started.exists, "the job runs", 20)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 130
    with Client(single.url) as client:
        assert client.dealloc(started.read_text()), "nothing was given back"


def test_the_command_tells_of_a_queue_that_is_not_there_or_keeps_poison(cloud: Cloud, command: Command) -> None:
    name = cloud.name + "-plain"
    cloud.aws.sqs.create_queue(QueueName=name)
    process = command("model:digits", "--queue", name, "--empty-timeout", "1")
    other = command("model:digits", "--queue", "nowhere")
    _, complaints = process.communicate(timeout=20)
    assert process.returncode == 0
    assert complaints.startswith(f"remotegpu: queue {name} has no redrive policy")
    _, complaints = other.communicate(timeout=20)
    assert other.returncode == 1
    assert complaints.startswith("remotegpu: finding queue nowhere failed (")


@pytest.mark.slow
def test_a_killed_command_loses_nothing(cloud: Cloud, single: LocalServer, command: Command, tmp_path: Path) -> None:
    started = tmp_path / "started"
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    more = ("--visibility", "3", "--empty-timeout", "5")
    process = command(HANDLER + "forever", *more, ORCHESTRATION_STARTED=str(started))
    wait_until(started.exists, "the job runs", 20)
    process.kill()
    process.communicate()
    with Client(single.url) as client:
        # What its idle TTL would do, 30 seconds later.
        assert client.dealloc(started.read_text())
    process = command(HANDLER + "echo", *more)
    printed, complaints = process.communicate(timeout=40)
    assert (process.returncode, complaints) == (0, "")
    (line,) = [json.loads(line) for line in printed.splitlines()]
    assert (line["outcome"], line["delivery"], line["Jobs"], line["Failures"]) == ("done", 2, 1, 0)
    assert {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]} <= set(line)
    assert cloud.count() == (0, 0)
