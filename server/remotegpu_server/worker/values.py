# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the steps of one program have made so far, and what operations make of that. Used by calls and by saved programs
alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remotegpu import errors, program
from remotegpu.strings import is_strings
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends.models import Model

from .prepared import Infer, Operate, Pick, Step, port_named


class Values:
    """Arrays by node and port."""

    def __init__(self, xp: Any, steps: Sequence[Step], last_uses: Mapping[int, tuple[int, ...]]) -> None:
        """`xp`: the Array API namespace of the device."""
        # By node; empty for one that nobody needs any more.
        self.made: list[list[Any]] = []
        self._xp = xp
        self._steps = steps
        self._last_uses = last_uses
        # Output names of the models that have run, by node.
        self._ports: dict[int, list[str]] = {}

    def of(self, node: int, port: int) -> Any:
        """The array at a port. Raises InvalidInput for one that the node does not have."""
        values = self.made[node]
        if port >= len(values):
            raise errors.InvalidInput(field=f"node {node}", limit=f"{len(values)} ports", given=f"port {port}")
        return values[port]

    def every(self, node: int) -> tuple[list[str], list[Any]]:
        """The names and arrays of a model call."""
        return self._ports[node], self.made[node]

    def ran(self, index: int, model: Model) -> None:
        """The model of that node has run: its outputs may be named from now on."""
        self._ports[index] = list(model.output_names)

    def inputs(self, step: Infer) -> list[tuple[str, Any]]:
        """What a model is called with."""
        return [(name, self.of(node, port)) for name, node, port in step.inputs]

    def pick(self, index: int, step: Pick) -> Any:
        """The output that node `index` names. Raises InvalidInput if the model has none of that name."""
        call = self._steps[step.node]
        assert isinstance(call, Infer), "checked before"
        return self.of(step.node, port_named(index, step, call.reference, self._ports[step.node]))

    def operate(self, step: Operate) -> list[Any]:
        """What an operation gives. Raises InvalidInput for strings, and what the operation raises."""
        message = step.message
        args = [program.decode_argument(argument, self._referred) for argument in message.args]
        kwargs = {item.name: program.decode_argument(item.value, self._referred) for item in message.kwargs}
        made = step.run(self._xp, *args, **kwargs)
        return list(made) if isinstance(made, tuple) else [made]

    def free_after(self, index: int) -> list[Any]:
        """Forgets the arrays that nobody needs once node `index` has run, and gives them."""
        going: list[Any] = []
        for used in self._last_uses.get(index, ()):
            going += self.made[used]
            self.made[used] = []
        return going

    def _referred(self, ref: pb.Ref) -> Any:
        value = self.of(ref.node, ref.port)
        if is_strings(value):
            limit = "strings as inputs and outputs of models only"
            raise errors.InvalidInput(field="operation", limit=limit, given=f"node {ref.node}, which are strings")
        return value
