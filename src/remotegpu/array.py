# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays on a remote device, as their user sees them.

An `Array` is a result that will be computed, or lies on the device already. Combining arrays records operations and
sends nothing; dtypes and shapes are worked out here. What cannot be answered without data (`float(x)`, `if x:`,
`np.asarray(x)`, a size that depends on data) runs what is pending, in one round trip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from remotegpu.dtypes import Dtype
from remotegpu.graph import (
    Constant,
    Dim,
    ModelCall,
    Operation,
    Packed,
    Picture,
    Placeholder,
    Remote,
    Shape,
    Source,
    Value,
)
from remotegpu.inference.shapes import settled
from remotegpu.operations import Unresolved, record
from remotegpu.opset import STANDARD, TABLE

HostArray = np.ndarray[Any, Dtype]


class Session(Protocol):
    """Where arrays live and programs run: one device of a lease."""

    @property
    def device(self) -> object:
        """What `Array.device` gives: comparable and printable."""

    @property
    def xp(self) -> Any:
        """The namespace (`remotegpu.namespace.Namespace`) of the session's arrays."""

    def fetch_values(self, wanted: Sequence[Value | ModelCall]) -> list[Any]:
        """Runs what is pending and brings values home."""

    def resolve(self, values: Sequence[Value]) -> None:
        """Computes values where they are, so that afterwards their dtypes and sizes are known."""


def call(session: Session, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Records operation `name` on arrays of the session: an Array, or a tuple of them where the function has several.

    A round trip is needed only where the number of results depends on a size that is not known yet. Raises as
    `remotegpu.operations.record`, and ValueError for arrays or a `device` of another session."""
    device = kwargs.get("device")
    if device is not None and device != session.device:
        raise ValueError(f"{name}: this namespace makes arrays on {session.device}, not on {device}")
    values = [value_of(session, item) for item in args]
    named = {key: value_of(session, item) for key, item in kwargs.items()} if kwargs else kwargs
    try:
        operation, metas = record(name, values, named)
    except Unresolved as question:
        session.resolve(question.values)
        operation, metas = record(name, values, named)
    if TABLE[name].several:
        return tuple(Array(Value(operation, meta, port), session) for port, meta in enumerate(metas))
    return Array(Value(operation, metas[0]), session)


def value_of(session: Session, item: Any) -> Any:
    """An argument with graph values in the place of arrays. Raises ValueError for an array of another session."""
    if isinstance(item, Array):
        if item._session is not session:
            raise ValueError(
                f"arrays of two sessions cannot meet: one is on {session.device}, the other on {item.device} "
                f"(of another lease, if these are equal); bring one home with numpy.asarray first"
            )
        return item._value
    if isinstance(item, tuple | list):
        parts = [value_of(session, part) for part in item] if has_arrays(item) else item
        return tuple(parts) if isinstance(item, tuple) else parts
    return item


def has_arrays(items: Sequence[Any]) -> bool:
    """Whether there is an array in nested tuples and lists."""
    return any(isinstance(item, Array) or (isinstance(item, tuple | list) and has_arrays(item)) for item in items)


_OPERANDS = (int, float, complex, np.ndarray, np.generic)  # beside arrays; bool is an int


def _binary(name: str, *, reflected: bool = False) -> Callable[[Array, Any], Array]:
    def operator(self: Array, other: Any) -> Array:
        if type(other) is not Array and not isinstance(other, _OPERANDS):
            return NotImplemented  # type: ignore[no-any-return]  # Python asks the other operand then
        made: Array = call(self._session, name, (other, self) if reflected else (self, other), {})
        return made

    return operator


def _in_place(name: str) -> Callable[[Array, Any], Array]:
    compute = _binary(name)

    def operator(self: Array, other: Any) -> Array:
        made: Any = compute(self, other)
        if made is NotImplemented:
            return NotImplemented  # type: ignore[no-any-return]  # as above
        if made.dtype != self.dtype:
            if not np.can_cast(made.dtype, self.dtype, "same_kind"):
                raise TypeError(f"{name} in place: the result is {made.dtype}, the array stays {self.dtype}")
            made = call(self._session, "astype", (made, self.dtype), {})
        if _settled(made) != _settled(self) and made.shape != self.shape:
            raise ValueError(f"{name} in place: the result has shape {made.shape}, the array stays {self.shape}")
        result: Array = made
        return result

    return operator


def _settled(array: Array) -> Shape | None:
    shape = array._value.meta.shape
    return None if shape is None else settled(shape)


def _unary(name: str) -> Callable[[Array], Array]:
    def operator(self: Array) -> Array:
        made: Array = call(self._session, name, (self,), {})
        return made

    return operator


class Array:
    """An array on a remote device, of the Python Array API standard: what it says of methods and operators holds here,
    dtypes and shapes follow NumPy's rules, and functions are in the lease's namespace (`lease.xp`).

    Made by that namespace, never directly. Arrays are immutable: `x += y` makes a new array and lets `x` stand for
    it; `x[index] = y` raises TypeError (`xp.where` chooses between arrays). An array that somebody holds stays on
    the device after the program that computed it. NumPy arrays as operands are sent along; `numpy.asarray(x)` brings
    an array home. Not for several threads at once."""

    __slots__ = ("__weakref__", "_session", "_value")

    # NumPy leaves operators such as `numpy_array * x` to this class, and does not bring `x` home for them.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # as for every array: `==` compares elements

    def __init__(self, value: Value, session: Session) -> None:
        self._value = value
        self._session = session
        value.holders += 1

    def __del__(self) -> None:
        value = getattr(self, "_value", None)  # not there if __init__ did not get that far
        if value is not None:
            value.holders -= 1

    def __copy__(self) -> Array:
        return Array(self._value, self._session)

    def __deepcopy__(self, memo: object) -> Array:
        return Array(self._value, self._session)

    def __reduce__(self) -> str:
        raise TypeError("an array on a device cannot be pickled; numpy.asarray brings it home")

    def __repr__(self) -> str:
        """What is known here, without asking: dtype, shape ("?" for sizes that only the device knows), state."""
        meta = self._value.meta
        sizes = "..." if meta.shape is None else ", ".join(map(str, meta.shape))
        return f"<Array {meta.dtype or 'of some dtype'}[{sizes}], {_state(self._value)}, {self.device}>"

    # What it is. These cost nothing unless they depend on data: then one round trip, once.

    @property
    def dtype(self) -> Dtype:
        """The NumPy dtype of the elements."""
        if self._value.meta.dtype is None:
            self._session.resolve([self._value])
        dtype = self._value.meta.dtype
        assert dtype is not None, "resolve makes it known"
        return dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        if self._value.meta.shape is None:
            self._session.resolve([self._value])
        return len(self._value.meta.shape or ())

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""
        sizes = _settled(self)
        if sizes is None or any(isinstance(size, Dim) for size in sizes):
            self._session.resolve([self._value])
            sizes = settled(self._value.meta.shape or ())
        return tuple(size for size in sizes if isinstance(size, int))

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def device(self) -> object:
        """The device, as its lease names it."""
        return self._session.device

    def to_device(self, device: object, /, *, stream: object = None) -> Array:
        """This array, if it is on that device already. Raises ValueError otherwise: devices do not copy to each other;
        `numpy.asarray` brings an array home, the other device's `asarray` sends it."""
        if device != self.device or stream is not None:
            raise ValueError(f"an array on {self.device} cannot move to {device}; numpy.asarray brings it home")
        return self

    @property
    def T(self) -> Array:
        """The transposed matrix. Raises ValueError unless there are two dimensions."""
        if self.ndim != 2:
            raise ValueError(f"T needs 2 dimensions, there are {self.ndim}; mT and permute_dims work on more")
        return self.mT

    @property
    def mT(self) -> Array:
        """The transposed matrices: the last two dimensions exchanged."""
        made: Array = call(self._session, "matrix_transpose", (self,), {})
        return made

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The namespace whose functions work on this array. Raises ValueError for a version newer than its own."""
        if api_version is not None and api_version > STANDARD:
            raise ValueError(f"version {api_version} of the Array API standard; this namespace follows {STANDARD}")
        return self._session.xp

    # Elements.

    def __getitem__(self, index: Any, /) -> Array:
        made: Array = call(self._session, "getitem", (self, index if isinstance(index, tuple) else (index,)), {})
        return made

    def __setitem__(self, index: Any, value: Any, /) -> None:
        raise TypeError("arrays on a device are immutable; xp.where(mask, value, x) makes a changed one")

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        """The parts along the first dimension, each an array on the device. To look at each number on the host, iterate
        over `numpy.asarray(x)`: one round trip and not one for each."""
        return (self[i] for i in range(len(self)))

    def __contains__(self, item: Any) -> bool:
        """Whether an element equals `item`: one round trip."""
        found = self.__eq__(item)
        return found is not NotImplemented and bool(call(self._session, "any", (found,), {}))

    # Data comes home: one round trip each.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        """The elements as NumPy array, which belongs to the caller. Runs what is pending."""
        if copy is False:
            raise ValueError("an array on a device cannot come home without a copy")
        (host,) = self._session.fetch_values([self._value])
        return np.asarray(host, dtype=dtype)

    def _scalar(self, target: str, kinds: str) -> Any:
        if self.ndim != 0:
            raise TypeError(f"only an array without dimensions converts to {target}; the shape is {self.shape}")
        if self.dtype.kind not in kinds:
            raise TypeError(f"an array of {self.dtype} does not convert to {target}; astype, real and imag do")
        return self.__array__().item()

    def __bool__(self) -> bool:
        return bool(self._scalar("bool", "biufc"))

    def __int__(self) -> int:
        return int(self._scalar("int", "biuf"))

    def __index__(self) -> int:
        return int(self._scalar("an index", "iu"))

    def __float__(self) -> float:
        return float(self._scalar("float", "biuf"))

    def __complex__(self) -> complex:
        return complex(self._scalar("complex", "biufc"))

    # Operators. The table has their rules.

    __abs__ = _unary("abs")
    __invert__ = _unary("bitwise_invert")
    __neg__ = _unary("negative")
    __pos__ = _unary("positive")

    __eq__ = _binary("equal")  # type: ignore[assignment]  # elementwise, so not a bool
    __ge__ = _binary("greater_equal")
    __gt__ = _binary("greater")
    __le__ = _binary("less_equal")
    __lt__ = _binary("less")
    __ne__ = _binary("not_equal")  # type: ignore[assignment]  # the same

    __add__ = _binary("add")
    __and__ = _binary("bitwise_and")
    __floordiv__ = _binary("floor_divide")
    __lshift__ = _binary("bitwise_left_shift")
    __matmul__ = _binary("matmul")
    __mod__ = _binary("remainder")
    __mul__ = _binary("multiply")
    __or__ = _binary("bitwise_or")
    __pow__ = _binary("pow")
    __rshift__ = _binary("bitwise_right_shift")
    __sub__ = _binary("subtract")
    __truediv__ = _binary("divide")
    __xor__ = _binary("bitwise_xor")

    __radd__ = _binary("add", reflected=True)
    __rand__ = _binary("bitwise_and", reflected=True)
    __rfloordiv__ = _binary("floor_divide", reflected=True)
    __rlshift__ = _binary("bitwise_left_shift", reflected=True)
    __rmatmul__ = _binary("matmul", reflected=True)
    __rmod__ = _binary("remainder", reflected=True)
    __rmul__ = _binary("multiply", reflected=True)
    __ror__ = _binary("bitwise_or", reflected=True)
    __rpow__ = _binary("pow", reflected=True)
    __rrshift__ = _binary("bitwise_right_shift", reflected=True)
    __rsub__ = _binary("subtract", reflected=True)
    __rtruediv__ = _binary("divide", reflected=True)
    __rxor__ = _binary("bitwise_xor", reflected=True)

    __iadd__ = _in_place("add")
    __iand__ = _in_place("bitwise_and")
    __ifloordiv__ = _in_place("floor_divide")
    __ilshift__ = _in_place("bitwise_left_shift")
    __imatmul__ = _in_place("matmul")
    __imod__ = _in_place("remainder")
    __imul__ = _in_place("multiply")
    __ior__ = _in_place("bitwise_or")
    __ipow__ = _in_place("pow")
    __irshift__ = _in_place("bitwise_right_shift")
    __isub__ = _in_place("subtract")
    __itruediv__ = _in_place("divide")
    __ixor__ = _in_place("bitwise_xor")


def _state(value: Value) -> str:
    """Where the value is on its way."""
    match value.origin:
        case None:
            return "on the device"
        case Source():
            return "to be sent"
        case Picture():
            return "to be sent and decoded"
        case Constant():
            return "a constant"
        case Packed():
            return "to be sent packed"
        case Remote():
            return "to be fetched"
        case Placeholder():
            return "an input"
        case Operation(name=name):
            return f"pending {name}"
        case ModelCall(model=model):
            return f"pending model {model!r}"
    return "pending model output"
