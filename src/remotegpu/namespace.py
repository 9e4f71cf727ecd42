# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The Array API namespace of one remote device: `lease.xp`.

Functions are made from the table of operations when they are first used. What needs no device (`result_type`,
`finfo`, ...) is NumPy's answer.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from remotegpu import dtypes
from remotegpu.array import Array, Session, call, has_arrays, value_of
from remotegpu.dtypes import Dtype
from remotegpu.inference.elementwise import refuse_complex
from remotegpu.operations import host_value, travelling
from remotegpu.opset import REQUIRED, STANDARD, TABLE, Signature

# `x[index]` is how callers spell it.
_FUNCTIONS: Final = frozenset(TABLE) - {"getitem"}
_NAME: Final = "remotegpu.array"
_CONSTANTS: Final = ("e", "inf", "nan", "newaxis", "pi")
_REFERENCE = f"https://data-apis.org/array-api/{STANDARD}/API_specification/generated/array_api"


class Namespace:
    """Functions, dtypes and constants of the Python Array API standard (2025.12, without its extensions and set
    functions), for arrays on one device. Functions record what is to be done; nothing is sent until data is asked for.

    Wrong arguments are refused at the call: TypeError, ValueError, IndexError or OverflowError, as by NumPy."""

    __slots__ = ("__weakref__", "_session")

    __name__ = _NAME
    __array_api_version__ = STANDARD

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<array namespace of {self._session.device}>"

    def __getattr__(self, name: str) -> Any:
        value: Any
        if name in _FUNCTIONS:
            value = _method(name)
        elif name in dtypes.NAMES:
            value = np.dtype(name).type
        elif name in _CONSTANTS:
            value = getattr(np, name)
        elif name.startswith("_"):
            raise AttributeError(name)
        else:
            near = difflib.get_close_matches(name, dir(self))
            what = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(dir(self))}"
            raise AttributeError(f"namespace {_NAME!r} has no {name!r}; {what}")
        # For all namespaces: one that kept functions of its own would be held by them.
        setattr(Namespace, name, value)
        return getattr(self, name)

    def __dir__(self) -> Sequence[str]:
        """The public names."""
        own = [name for name in vars(Namespace) if not name.startswith("_")]
        return sorted({*_FUNCTIONS, *dtypes.NAMES, *_CONSTANTS, *own, "__array_namespace_info__"})

    def asarray(self, obj: Any, /, *, dtype: Any = None, device: object = None, copy: bool | None = None) -> Array:
        """An array with the elements of `obj`: an array of this namespace (converted if `dtype` differs), a NumPy
        array, a Python scalar, or nested lists of scalars. It travels with the first program that needs it.

        A NumPy array is copied, since it may change before it travels, unless it is read-only or `copy` is False.
        Raises ValueError for `copy=False` where a copy is needed, and for another device; InvalidInput for a dtype that
        does not travel; TypeError for a list with remote arrays in it (`stack` and `concat` join those)."""
        if device is not None and device != self._session.device:
            raise ValueError(f"asarray: this namespace makes arrays on {self._session.device}, not on {device}")
        wanted = None if dtype is None else travelling(dtype)
        if isinstance(obj, Array):
            return self._converted(obj, wanted, copy)
        plain = isinstance(obj, int | float | complex | np.generic | tuple | list)
        if isinstance(obj, tuple | list) and has_arrays(obj):
            raise TypeError("asarray: there are arrays of a device in the list; stack and concat join those")
        host = np.asarray(obj, dtype=wanted if plain else None)
        if plain or (wanted is not None and host.dtype != wanted):
            if copy is False:
                raise ValueError(f"asarray: {type(obj).__name__} to {wanted or host.dtype} needs a copy")
            refuse_complex("asarray", host.dtype, wanted)
            host = host if plain else host.astype(wanted)
            host.setflags(write=False)  # nobody else has it
        return Array(host_value(host, copy=copy), self._session)

    def _converted(self, array: Array, dtype: Dtype | None, copy: bool | None) -> Array:
        value_of(self._session, array)
        if dtype is None or dtype == array.dtype:
            return array
        if copy is False:
            raise ValueError(f"asarray: {array.dtype} to {dtype} needs a copy")
        made: Array = call(self._session, "astype", (array, dtype), {})
        return made

    def broadcast_shapes(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """The common shape of arrays of these shapes. Raises ValueError if there is none."""
        return np.broadcast_shapes(*shapes)

    def can_cast(self, from_: Any, to: Any, /) -> bool:
        """Whether a dtype, or that of an array, fits another without loss, by NumPy's promotion rules."""
        return np.can_cast(_dtype_of(from_), travelling(to))

    def finfo(self, type: Any, /) -> np.finfo[Any]:
        """The limits of a floating dtype, or of that of an array. Raises ValueError for others."""
        return np.finfo(_dtype_of(type))

    def iinfo(self, type: Any, /) -> np.iinfo[Any]:
        """The limits of an integer dtype, or of that of an array. Raises ValueError for others."""
        return np.iinfo(_dtype_of(type))

    def isdtype(self, dtype: Any, kind: Any) -> bool:
        """Whether a dtype is of a kind: a dtype, a name such as "real floating", or a tuple of these."""
        return np.isdtype(travelling(dtype), kind)

    def result_type(self, *arrays_and_dtypes: Any) -> Dtype:
        """The dtype of the arguments together; Python scalars count as in operations. Raises TypeError for none."""
        if not arrays_and_dtypes:
            raise TypeError("result_type needs an array or a dtype")
        scalars = (int, float, complex)
        return np.result_type(*(a if type(a) in scalars else _dtype_of(a) for a in arrays_and_dtypes))

    def __array_namespace_info__(self) -> Info:
        """What this namespace can do."""
        return Info(self._session)


class Info:
    """What a namespace can do, as the standard asks for it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def capabilities(self) -> dict[str, Any]:
        """Sizes may depend on data; a tensor that travels has at most 32 dimensions."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 32}

    def default_device(self) -> object:
        """The one device of the namespace."""
        return self._session.device

    def devices(self) -> tuple[object, ...]:
        """The same."""
        return (self._session.device,)

    def default_dtypes(self, *, device: object = None) -> dict[str, type]:
        """The dtypes of results where nothing else is said."""
        return {
            "real floating": np.float64,
            "complex floating": np.complex128,
            "integral": np.int64,
            "indexing": np.int64,
        }

    def dtypes(self, *, device: object = None, kind: str | tuple[str, ...] | None = None) -> dict[str, type]:
        """The standard's dtypes by name, all or of one kind or several. Raises ValueError for an unknown kind."""
        every = {name: np.dtype(name).type for name in dtypes.NAMES if name != "float16"}  # not in the standard
        if kind is None:
            return every
        return {name: dtype for name, dtype in every.items() if np.isdtype(np.dtype(dtype), kind)}


def _dtype_of(item: Any) -> Dtype:
    if isinstance(item, Array | np.ndarray | np.generic):
        return item.dtype
    return np.dtype(bool) if item is True or item is False else travelling(item)


def _method(name: str) -> Callable[..., Any]:
    def function(self: Namespace, /, *args: Any, **kwargs: Any) -> Any:
        return call(self._session, name, args, kwargs)

    signature = TABLE[name].signature
    function.__name__ = function.__qualname__ = name
    function.__module__ = _NAME
    function.__signature__ = _inspectable(signature)  # type: ignore[attr-defined]  # what inspect looks for
    function.__doc__ = (
        f"{name}({signature.text})\n\nRecords `{name}` of the Array API standard {STANDARD}; nothing is sent yet.\n"
        f"See {_REFERENCE}.{name}.html"
    )
    return function


def _inspectable(signature: Signature) -> inspect.Signature:
    parameters = [inspect.Parameter("self", inspect._ParameterKind.POSITIONAL_ONLY)]
    for i, (name, default) in enumerate(zip(signature.names, signature.defaults, strict=True)):
        if i == 0 and signature.variadic:
            kind = inspect._ParameterKind.VAR_POSITIONAL
        elif i < signature.positional_only:
            kind = inspect._ParameterKind.POSITIONAL_ONLY
        elif i < signature.keyword_only:
            kind = inspect._ParameterKind.POSITIONAL_OR_KEYWORD
        else:
            kind = inspect._ParameterKind.KEYWORD_ONLY
        shown = inspect.Parameter.empty if default is REQUIRED else default
        parameters.append(inspect.Parameter(name, kind, default=shown))
    return inspect.Signature(parameters)
