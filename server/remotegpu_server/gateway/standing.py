# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How versions of models stand over all devices, for those who ask. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from remotegpu.v1 import repository_pb2
from remotegpu.v1 import worker_pb2 as pb

from .served import Known, Served

FAILED = "failed"


def failure_of(states: Mapping[int, pb.ModelState]) -> str:
    """Why it could not be loaded; "" if it could everywhere, or was not asked for. `states`: what the worker of each
    device says of it."""
    return next((state.reason for state in states.values() if state.state == FAILED), "")


def standing(known: Known, states: Mapping[int, pb.ModelState], *, coming: bool) -> tuple[str, str]:
    """The state, as `repository.proto` names them, and why. `coming`: it is being loaded by request."""
    if coming:
        return "loading", ""
    if known.unloaded:
        return "unloaded", "unloaded by request"
    failure = failure_of(states)
    if failure:
        return FAILED, failure
    found = {state.state for state in states.values()}
    if "loaded" in found:
        gone = [str(index) for index, state in states.items() if state.state == "evicted"]
        return "loaded", f"evicted on device {', '.join(gone)}" if gone else ""
    if "evicted" in found:
        return "evicted", "it was not used for longest when memory was needed; the next call loads it again"
    if known.wanted:
        return "loading", ""
    return "unloaded", "not asked for yet; the first call that names the version loads it"


def loaded_names(models: Iterable[Known], states: Mapping[int, pb.ModelState]) -> set[str]:
    """The names of those models that one device has loaded, by what its worker says of files."""
    loaded = {number for number, state in states.items() if state.state == "loaded"}
    return {known.entry.name for known in models if known.number in loaded}


def without_version(problems: Mapping[str, str], served: Served, name: str) -> list[repository_pb2.IndexEntry]:
    """The entries of models of which no version could be known, with what is wrong with their folders: all of them, or
    that of one name. One that was loaded since is none of them."""
    asked = {model: why for model, why in problems.items() if model not in served.versions and name in {"", model}}
    return [repository_pb2.IndexEntry(name=model, state=FAILED, reason=why) for model, why in asked.items()]
