# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The error tree: as drawn, complete, telling, and the same after a journey. On the wire: `test_wire.py`."""

import copy
import dataclasses
import pickle
import re
from typing import Any

import grpc
import pytest

from remotegpu import errors

# A value for each field, none a part of another, so that a sentence can be searched for them.
VALUES: dict[str, Any] = {
    "address": "10.1.2.3:50051",
    "asked": 123456,
    "call": 123,
    "deadline": 7.25,
    "device": 31,
    "digests": "9f86d081",
    "epoch": 42,
    "estimated_wait": 8.5,
    "field": "a field",
    "free_gpus": 21,
    "free_memory": 654321,
    "free_slots": 64,
    "given": "something else",
    "instead": "await lease.fetch(x)",
    "kind": "SomethingNew",
    "lease": "0a1b2c3d4e5f",
    "limit": 98765,
    "model": "net:7",
    "node": 17,
    "operation": "matmul",
    "place": 43,
    "queue_length": 99,
    "retry_after": 3.75,
    "setting": "REMOTEGPU_URL",
    "traceback": "Traceback: line 1",
    "url": "https://files.example/x",
    "used": 4321,
    "waited": 5.5,
    "what": "whole devices",
    "why": "the reason",
}
# Fields that a sentence leaves out: many lines, or said by the sentence's own words.
UNSAID = {("RemoteError", "traceback"), ("OutOfMemory", "traceback"), ("ModelNotFound", "field")}
# What others hold and how many wait does not help one whose own quota is used up.
UNSAID |= {
    ("QuotaExceeded", name)
    for name in ("queue_length", "place", "estimated_wait", "free_slots", "free_gpus", "free_memory")
}
CLASSES = list(errors.BY_NAME.values())


def build(cls: type[errors.Error]) -> errors.Error:
    return cls(**{field.name: VALUES[field.name] for field in dataclasses.fields(cls)})


def drawing() -> list[tuple[str, str | None, str]]:
    """Name, parent and note of each line of the tree in the module's docstring."""
    found: list[tuple[str, str | None, str]] = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:[│├└ ][─ ]{2} )*)([A-Z]\w+)(?:  +(.*))?", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            found.append((match[2], above[depth - 1] if depth else None, match[3] or ""))
    return found


def test_the_tree_is_as_drawn() -> None:
    drawn = [(name, parent) for name, parent, _ in drawing()]
    real = {cls.__name__: cls.__base__.__name__ for cls in CLASSES if cls.__base__}
    assert len(drawn) == len(dict(drawn))
    assert dict(drawn) == real | {"Error": None}
    assert all(len(cls.__bases__) == 1 for cls in CLASSES)


def test_every_error_class_can_be_found_by_name() -> None:
    defined = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.Error)
    }
    assert dict(errors.BY_NAME) == defined


def test_what_may_be_tried_again_is_what_the_drawing_says() -> None:
    documented = {name for name, _, note in drawing() if "retryable" in note}
    assert {cls.__name__ for cls in CLASSES if cls.retryable} == documented
    assert documented == {
        "Busy",
        "QuotaExceeded",
        "LeaseLost",
        "DeviceFailed",
        "ConnectError",
        "Unavailable",
        "QueueFull",
        "QueueTimeout",
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_a_status_is_one_of_grpc(cls: type[errors.Error]) -> None:
    assert cls.status in grpc.StatusCode.__members__
    assert cls.status != "OK"


@pytest.mark.parametrize("cls", CLASSES)
def test_a_sentence_says_all_fields(cls: type[errors.Error]) -> None:
    error = build(cls)
    for name, value in error.fields().items():
        if (cls.__name__, name) not in UNSAID:
            said = str(value)[:8] if name == "lease" else str(value)  # of a lease's key, as little as tells it apart
            assert said in str(error), name
    assert "\n" not in str(error)
    assert VALUES["lease"] not in str(error)


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("idle", "idle TTL"),
        ("hard_cap", "hard time limit"),
        ("dealloc", "it was deallocated"),
        ("cancelled", "its caller went away"),
    ],
)
def test_why_a_lease_ended_is_said_in_words(why: str, said: str) -> None:
    assert said in str(errors.LeaseExpired(lease="0a1b2c3d", why=why))


def test_busy_leaves_out_what_is_not_known() -> None:
    sentence = str(errors.Busy(retry_after=0.5, queue_length=0))
    assert sentence.startswith("busy: 0 waiting; free now: 0 whole devices, 0 slots, at most 0 bytes on one")


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_is_the_same_after_pickling_and_copying(cls: type[errors.Error]) -> None:
    error = build(cls)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls
        assert again.fields() == error.fields()
        assert str(again) == str(error)


def test_fields_without_a_value_do_not_travel() -> None:
    error = errors.Busy(retry_after=1.0, queue_length=2)
    assert "estimated_wait" not in error.fields()
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, errors.Busy)
    assert again.estimated_wait is None


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_are_told_apart_by_identity(cls: type[errors.Error]) -> None:
    one, other = build(cls), build(cls)
    assert one != other
    assert len({one, other}) == 2


# ---- other versions ---------------------------------------------------------------------------------------


def test_an_unknown_kind_keeps_its_name_and_fields() -> None:
    error = errors.from_fields("CompileError", {"line": 3, "log": "no such function"})
    assert isinstance(error, errors.UnknownRemoteError)
    assert error.kind == "CompileError"
    assert str(error) == "CompileError: line=3, log=no such function"
    assert not error.retryable


def test_a_field_that_this_version_does_not_know_is_left_out() -> None:
    error = errors.from_fields("Unavailable", {"why": "draining", "retry_after": 2.0, "moon": "full"})
    assert isinstance(error, errors.Unavailable)
    assert error.fields() == {"why": "draining", "retry_after": 2.0}


def test_a_missing_field_takes_its_default() -> None:
    error = errors.from_fields("Unavailable", {"why": "draining"})
    assert isinstance(error, errors.Unavailable)
    assert error.retry_after == 1.0


def test_a_missing_field_without_a_default_makes_the_error_unknown() -> None:
    error = errors.from_fields("Impossible", {"what": "memory", "asked": 5})
    assert isinstance(error, errors.UnknownRemoteError)
    assert error.kind == "Impossible"
    assert "'limit'" in error.why


@pytest.mark.parametrize("name", ["Exception", "SystemExit", "errors", ""])
def test_only_classes_of_the_tree_are_built(name: str) -> None:
    assert type(errors.from_fields(name, {})) is errors.UnknownRemoteError
