# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The tournament tree and the indexes over devices, compared with plain lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_server.scheduler.offer import Index, Ranking
from remotegpu_server.scheduler.positions import NOTHING, UNLIMITED, Positions

VALUES = st.sampled_from([NOTHING, NOTHING, -UNLIMITED, -7, -1, 0, 1, 2, 3, 9, UNLIMITED])


@given(count=st.integers(0, 40), changes=st.lists(st.tuples(st.integers(0, 39), VALUES), max_size=60), least=VALUES)
def test_positions_are_found_as_in_a_plain_list(count: int, changes: list[tuple[int, int]], least: int) -> None:
    positions = Positions(count)
    plain = [NOTHING] * len(positions)
    assert max(count, 1) <= len(positions) < max(2 * count, 2)
    for position, value in changes:
        position %= len(positions)
        positions.set(position, value)
        plain[position] = value
        for start in range(len(plain) + 2):
            found = next((at for at in range(start, len(plain)) if plain[at] >= least), None)
            assert positions.next(start, least) == found


def test_a_search_without_a_limit_does_not_end_at_an_empty_position() -> None:
    positions = Positions(4)
    assert positions.next(0, -UNLIMITED) is None
    positions.set(2, -UNLIMITED)
    assert positions.next(0, -UNLIMITED) == 2
    assert NOTHING < -UNLIMITED < UNLIMITED


@given(
    changes=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([NOTHING, 0, 0, 1, 5, 1 << 61]))),
    start=st.integers(0, 17),
    memory=st.sampled_from([0, 1, 2, 5]),
)
def test_an_index_answers_as_a_plain_table(changes: list[tuple[int, int]], start: int, memory: int) -> None:
    index, plain = Index(10), dict[int, int]()
    for position, value in changes:
        index.put(position, plain.get(position, NOTHING), value)
        plain[position] = value
        plain = {at: free for at, free in plain.items() if free != NOTHING}
    enough = [at for at in sorted(plain) if plain[at] >= memory]
    assert len(index) == len(plain)
    assert index.count(memory) == len(enough)
    assert list(index.tightest(memory)) == sorted(enough, key=lambda at: plain[at])
    assert list(index.around(start, memory)) == sorted(enough, key=lambda at: at < start)
    descending = sorted(plain.values(), reverse=True)
    assert [index.most(rank) for rank in range(12)] == [NOTHING, *descending, *[NOTHING] * (11 - len(plain))]


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ((9, 0.0, 0, 0), (0, 0.05, 0, 0)),  # (position, utilisation, reserved memory, leases)
        ((9, 0.05, 9, 0), (0, 0.10, 0, 0)),
        ((9, 0.99, 1 << 62, 9), (0, 1.0, 0, 0)),
        ((9, 0.51, 1, 9), (0, 0.54, 2, 0)),  # noise decides nothing
        ((9, 0.5, 1, 1), (0, 0.5, 1, 2)),
        ((0, 0.5, 1, 1), (9, 0.5, 1, 1)),
    ],
)
def test_the_ranking_looks_at_utilisation_then_memory_then_leases(
    less: tuple[int, float, int, int], more: tuple[int, float, int, int]
) -> None:
    ranking = Ranking()
    ranking.put(NOTHING, Ranking.key(*more))
    ranking.put(NOTHING, Ranking.key(*less))
    assert list(ranking) == [less[0], more[0]]
    ranking.put(Ranking.key(*less), NOTHING)
    assert list(ranking) == [more[0]]
