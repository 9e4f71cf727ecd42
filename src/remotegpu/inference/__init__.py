# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which dtypes and shapes come out of an operation, without data and without a round trip.

A rule takes the operation's name and its bound arguments, with a `graph.Meta` (known dtype, known number of
dimensions) in the place of each array, and gives the metas of the results. It raises TypeError, ValueError, IndexError
or OverflowError for arguments that the server could only refuse. It costs the same for any number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from remotegpu.graph import Meta
from remotegpu.inference import creation, elementwise, indexing, linear_algebra, manipulation

Rule = Callable[..., tuple[Meta, ...]]

_FAMILIES = {
    creation: "arange eye filled like linspace triangle",
    elementwise: "astype clip elementwise reduction where",
    indexing: "getitem nonzero searchsorted take take_along_axis",
    linear_algebra: "matmul tensordot vecdot",
    manipulation: (
        "broadcast_arrays broadcast_to concat cumulative diff expand_dims flip matrix_transpose meshgrid moveaxis "
        "permute_dims repeat reshape roll sort squeeze stack tile unstack"
    ),
}

# By `opset.Row.family`.
RULES: Final[Mapping[str, Rule]] = {
    name: getattr(module, name) for module, names in _FAMILIES.items() for name in names.split()
}
