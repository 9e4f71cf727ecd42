# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Plans: which nodes a call needs, in which order, what comes home and what stays."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu.dtypes import NAMES, from_number, number_of
from remotegpu.graph import (
    UNKNOWN,
    Dim,
    Handle,
    Meta,
    ModelCall,
    NamedPort,
    Operation,
    Origin,
    Output,
    Picture,
    Plan,
    Source,
    Value,
    plan,
)

FLOAT32 = np.dtype(np.float32)


def source() -> Value:
    return Value(Source(np.ones(2, FLOAT32)))


def add(*values: Any, **kwargs: Any) -> Value:
    return Value(Operation("add", values, tuple(kwargs.items())))


def settled(number: int, freed: list[int] | None = None) -> Value:
    value = source()
    value.settle(Handle(number, 1), [] if freed is None else freed)
    return value


def held(value: Value) -> Value:
    value.holders += 1
    return value


def ids() -> Callable[[], int]:
    return itertools.count(101).__next__


def origins(*values: Value) -> list[Origin | Handle | None]:
    return [value.handle or value.origin for value in values]


def said(made: Plan) -> list[tuple[int, int, bool, int]]:
    return [(output.node, output.port, output.fetch, output.keep) for output in made.outputs]


# ---- order ------------------------------------------------------------------------------------------------


def test_each_node_comes_after_what_it_needs_and_the_first_argument_first() -> None:
    a, b, c = source(), source(), source()
    left, right = add(a, b), add(b, c)
    total = add(left, right)
    made = plan([total], keep=None)
    assert made.nodes == origins(a, b, left, c, right, total)
    assert made.positions == {id(node): index for index, node in enumerate(made.nodes)}
    assert [made.ref(value) for value in (a, left, total)] == [(0, 0), (2, 0), (5, 0)]
    assert said(made) == [(5, 0, True, 0)]


def test_a_shared_node_is_planned_once() -> None:
    a = source()
    twice = add(a, a)
    made = plan([add(twice, twice), twice, a], keep=None)
    assert len(made.nodes) == 3
    assert made.nodes[:2] == origins(a, twice)
    assert said(made) == [(2, 0, True, 0), (1, 0, True, 0), (0, 0, True, 0)]


def test_values_are_found_in_tuples_and_keywords() -> None:
    a, b, c, d = source(), source(), source(), source()
    total = add((1, (a, None)), "text", slice(1, 2), b, where=c, out=(d,))
    assert plan([total], keep=None).nodes == origins(a, b, c, d, total)


def test_what_is_not_wanted_is_not_planned() -> None:
    a = source()
    dead = held(add(a, source()))
    live = add(a)
    made = plan([live], keep=ids())
    assert made.nodes == origins(a, live)
    assert dead.origin not in made.nodes


def test_nothing_wanted_is_an_empty_plan() -> None:
    assert plan([], keep=ids(), free=[3]) == Plan(free=[3])


def test_ports_of_one_node_share_it() -> None:
    both = Operation("divmod", (source(),))
    quotient, remainder = Value(both), Value(both, port=1)
    made = plan([remainder, quotient, add(remainder, quotient)], keep=None)
    assert len(made.nodes) == 3
    assert said(made) == [(1, 1, True, 0), (1, 0, True, 0), (2, 0, True, 0)]
    assert made.ref(remainder) == (1, 1)


def test_a_model_call_its_ports_and_its_named_outputs() -> None:
    picture = Value(Picture(b"jpeg"))
    call = ModelCall("digits", (("image", picture),))
    scores = Value(NamedPort(call, "scores"))
    made = plan([scores, Value(call, port=3)], keep=None)
    assert made.nodes == [picture.origin, call, scores.origin]
    assert said(made) == [(2, 0, True, 0), (1, 3, True, 0)]


def test_all_outputs_of_a_model_call_may_be_wanted() -> None:
    metas = Meta(FLOAT32, (2,)), Meta(FLOAT32, (3,))
    known, unknown = ModelCall("digits", (("", source()),), metas), ModelCall("linear", ())
    made = plan([known, unknown], keep=ids())
    assert [(output.every_port, output.value, output.fetch, output.keep) for output in made.outputs] == [
        (True, None, True, 0)
    ] * 2
    assert [output.node for output in made.outputs] == [1, 2]
    assert [made.metas(output) for output in made.outputs] == [metas, (UNKNOWN,)]


def test_the_plan_tells_what_is_known_of_each_output() -> None:
    a, meta = source(), Meta(FLOAT32, (7,))
    made = plan([Value(a.origin, meta), a], keep=None)
    assert [made.metas(output) for output in made.outputs] == [(meta,), (UNKNOWN,)]
    assert made.metas(Output(0, 0, fetch=True)) == (UNKNOWN,)


def test_a_chain_of_20000_operations() -> None:
    made_by = [source()]
    for _ in range(20_000):
        made_by.append(add(made_by[-1], made_by[-1]))
    made = plan([made_by[-1]], keep=None)
    assert made.nodes == origins(*made_by)
    del made.nodes[:], made_by[:-1]
    made_by.clear()  # the last holder of the chain: it is taken apart without recursion, too


GRAPHS = st.lists(st.lists(st.integers(0, 1000), max_size=3), min_size=1, max_size=12)


@settings(deadline=None)
@given(GRAPHS, st.lists(st.integers(0, 1000), max_size=4))
def test_any_graph_is_planned_as_its_ancestors_in_order(graph: list[list[int]], wanted: list[int]) -> None:
    values: list[Value] = []
    needs: list[set[int]] = []
    for inputs in graph:
        used = [number % len(values) for number in inputs] if values else []
        values.append(add(*(values[number] for number in used)))
        needs.append({ancestor for number in used for ancestor in (number, *needs[number])})
    asked = [number % len(values) for number in wanted]
    made = plan([values[number] for number in asked], keep=None)
    expected = {ancestor for number in asked for ancestor in (number, *needs[number])}
    places = {number: made.positions[id(values[number].origin)] for number in expected}
    assert len(made.nodes) == len(expected)
    assert all(places[ancestor] < places[number] for number in expected for ancestor in needs[number])
    assert [output.node for output in made.outputs] == [places[number] for number in asked]


NODES: list[Callable[[], Any]] = [
    lambda: Source(np.ones(2)),
    lambda: Picture(b"jpeg"),
    lambda: Operation("add", ()),
    lambda: ModelCall("digits", ()),
    lambda: NamedPort(ModelCall("digits", ()), "scores"),
]


@pytest.mark.parametrize("make", NODES)
def test_nodes_are_frozen_and_told_apart_by_identity(make: Callable[[], Any]) -> None:
    one, other = make(), make()
    assert one != other
    assert len({one, other}) == 2
    for field in dataclasses.fields(one):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, None)


# ---- what stays -------------------------------------------------------------------------------------------


def test_what_somebody_holds_is_kept() -> None:
    a, b = held(source()), source()
    total = held(add(a, b))
    last = add(total)
    made = plan([last], keep=ids())
    assert said(made) == [(3, 0, True, 0), (2, 0, False, 101), (0, 0, False, 102)]
    assert [output.value for output in made.outputs] == [last, total, a]


def test_a_wanted_value_that_is_held_comes_home_and_stays() -> None:
    total = held(add(source()))
    assert said(plan([total], keep=ids())) == [(1, 0, True, 101)]


def test_a_port_is_kept_under_its_own_number() -> None:
    both = Operation("divmod", ())
    remainder = held(Value(both, port=1))
    assert said(plan([add(Value(both), remainder)], keep=ids())) == [(1, 0, True, 0), (0, 1, False, 101)]


def test_without_ids_nothing_stays() -> None:
    total = held(add(held(source())))
    assert said(plan([total], keep=None)) == [(1, 0, True, 0)]


def test_without_fetching_values_are_computed_and_kept() -> None:
    total, call = held(add(source())), ModelCall("digits", ())
    made = plan([total, call], keep=ids(), fetch=False)
    assert said(made) == [(1, 0, False, 101), (2, 0, False, 0)]


def test_a_value_wanted_twice_comes_home_twice_and_is_kept_once() -> None:
    total, other = held(add(source())), source()
    made = plan([total, other, total, total], keep=ids())
    assert said(made) == [(1, 0, True, 101), (2, 0, True, 0), (1, 0, True, 0), (1, 0, True, 0)]


def test_a_value_resolved_twice_is_one_output() -> None:
    total, other = held(add(source())), source()
    assert said(plan([total, other, total], keep=ids(), fetch=False)) == [(1, 0, False, 101), (2, 0, False, 0)]


def test_a_value_on_the_device_is_a_handle_and_is_not_kept_again() -> None:
    there = held(settled(7))
    made = plan([add(there, there), there], keep=ids())
    assert made.nodes[0] == Handle(7, 1)
    assert said(made) == [(1, 0, True, 0), (0, 0, True, 0)]


def test_a_port_on_the_device_is_port_0_of_its_handle() -> None:
    remainder = Value(Operation("divmod", ()), port=1)
    remainder.settle(Handle(7, 1), [])
    assert plan([remainder], keep=None).ref(remainder) == (0, 0)


def test_handles_to_free_go_along() -> None:
    freed = [4, 5]
    made = plan([source()], keep=None, free=freed)
    freed.clear()
    assert made.free == [4, 5]


# ---- values -----------------------------------------------------------------------------------------------


def test_a_settled_value_forgets_how_it_was_made() -> None:
    total = add(source())
    freed: list[int] = []
    total.settle(Handle(9, 2), freed)
    assert (total.handle, total.origin) == (Handle(9, 2), None)
    assert plan([total], keep=None).nodes == [Handle(9, 2)]
    assert freed == []


def test_the_handle_of_a_collected_value_is_to_be_freed() -> None:
    freed: list[int] = []
    value: Value | None = settled(9, freed)
    assert freed == []
    del value
    assert freed == [9]


def test_a_value_that_a_pending_operation_needs_is_not_freed() -> None:
    freed: list[int] = []
    value = settled(9, freed)
    pending = add((value,))
    del value
    assert freed == []
    pending.settle(Handle(10, 1), freed)
    assert freed == [9]
    del pending
    assert freed == [9, 10]


def test_a_value_that_never_was_on_the_device_frees_nothing() -> None:
    value = source()
    value.freed = []
    freed = value.freed
    del value
    assert freed == []


def test_a_reply_tells_dtype_and_shape() -> None:
    value = source()
    assert value.meta is UNKNOWN
    value.learn(FLOAT32, (2, 3))
    assert value.meta == Meta(FLOAT32, (2, 3))


def test_a_reply_tells_sizes_to_all_who_share_them() -> None:
    rows = Dim()
    boxes = Value(None, Meta(FLOAT32, (rows, 4)))
    scores = Value(None, Meta(FLOAT32, (rows,)))
    assert repr(scores.meta.shape) == "(?,)"
    boxes.learn(FLOAT32, (17, 4))
    assert boxes.meta.shape == (17, 4)
    assert rows.size == 17
    assert repr(scores.meta.shape) == "(17,)"


def test_a_reply_of_another_rank_is_believed() -> None:
    """A model whose file was changed on the server: what came is what there is."""
    value = Value(None, Meta(FLOAT32, (Dim(),)))
    value.learn(FLOAT32, (2, 3))
    assert value.meta == Meta(FLOAT32, (2, 3))


def test_a_size_is_equal_only_to_itself() -> None:
    one, other = Dim(), Dim()
    one.size = other.size = 3
    assert one == one  # that is the point
    assert one != other
    assert (one, 4) != (other, 4)
    assert len({one, other, one}) == 2


# ---- dtypes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_has_one_number_in_both_byte_orders(name: str) -> None:
    number = number_of(np.dtype(name))
    assert number == NAMES.index(name) + 1
    assert number_of(np.dtype(name).newbyteorder(">")) == number
    assert from_number(number) == np.dtype(name)


def test_other_dtypes_have_no_number() -> None:
    assert [number_of(np.dtype(name)) for name in ("U3", "O", "M8[s]", "V2")] == [None] * 4
    assert [from_number(number) for number in (-1, 0, len(NAMES) + 1)] == [None] * 3
