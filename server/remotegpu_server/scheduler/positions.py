# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Values at positions, and the search for the next one that is large enough, in logarithmic time.

A tournament tree: each inner node holds the larger of its two children, so whole halves without a candidate are
passed over in one look.
"""

NOTHING = -(1 << 62)
"""Less than every value: nobody is at that position."""
UNLIMITED = -NOTHING - 1
"""More than every value. Even its negation is more than `NOTHING`, so a search never ends at an empty position."""


class Positions:
    """So many positions, all empty at first."""

    def __init__(self, count: int) -> None:
        self._leaves = 1 << max(count - 1, 0).bit_length()
        self._tree = [NOTHING] * (2 * self._leaves)

    def __len__(self) -> int:
        """How many positions there are, at least as many as were asked for."""
        return self._leaves

    def set(self, position: int, value: int) -> None:
        """Put a value there; `NOTHING` empties it."""
        tree = self._tree
        node = position + self._leaves
        tree[node] = value
        node >>= 1
        while node:
            left, right = tree[2 * node], tree[2 * node + 1]
            larger = left if left > right else right
            if tree[node] == larger:
                return
            tree[node] = larger
            node >>= 1

    def next(self, start: int, least: int) -> int | None:
        """The first position from `start` on whose value is at least `least`, `None` if there is none."""
        tree, leaves = self._tree, self._leaves
        if start >= leaves or tree[1] < least:
            return None
        node = start + leaves
        while tree[node] < least:
            while node & 1:  # a right child: what comes next is to the right of its parent
                node >>= 1
            if not node:
                return None  # came up along the right edge
            node += 1
        while node < leaves:
            node *= 2
            if tree[node] < least:
                node += 1
        return node - leaves
