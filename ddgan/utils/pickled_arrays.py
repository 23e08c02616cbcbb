"""Arrays of numbers out of a pickle, without letting it run any code."""

import io
import pickle
import struct
from collections.abc import Callable
from typing import ClassVar

import numpy as np

_CODES = ("u1", "i4", "i8", "f2", "f4", "f8")


class PickledArray:
    """Stands for a pickled array of real numbers, or of objects; ``values`` is the array.

    No numpy object is built by the unpickler.
    """

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Type):
            raise pickle.UnpicklingError("an array has no type")
        if dtype.code is None:
            self.values = np.empty(len(raw), dtype=object)
            self.values[:] = raw
            return
        # Python 2 had one type for bytes and text.
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        values = np.frombuffer(raw, dtype=dtype.order + dtype.code)
        self.values = values.reshape(shape, order="F" if fortran else "C")


class _Type:
    """Stands for a pickled ``numpy.dtype`` of objects (``code`` None) or real numbers."""

    order = "<"

    def __init__(self, code: str | bytes, *_: object) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        self.code = None if text in ("O", "O8") else text.lstrip("|<=")
        if self.code is not None and self.code not in _CODES:
            raise pickle.UnpicklingError(f"an array has type {code!r}, expected one of {_CODES}")

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] in (">", b">") else "<"


class _Latin1(bytes):
    """Stands for ``_codecs.encode``, with which Python 3 writes bytes in old protocols."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}, expected 'latin1'")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


def _array_of(raw: bytes, dtype: object, shape: tuple, order: str) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


# Classes with __setstate__, which a pickle cannot alter, as it could a function.
_STANDINS: dict[str, Callable] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": _Type,
    "_codecs.encode": _Latin1,
    **{f"numpy.{core}.multiarray._reconstruct": PickledArray for core in ("core", "_core")},
}


class ArrayUnpickler(pickle._Unpickler):
    """Builds plain containers, numbers, text and arrays of numbers, and refuses everything else.

    Raises nearly anything for a damaged pickle. The public Unpickler, written in C, allocates
    gigabytes for a memo number that is damaged, and this one would for the length of a bytearray.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")

    def _load_bytearray(self) -> None:
        # Attributes that pickle's own unpickler sets when it starts, which typeshed does not list.
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch: ClassVar[dict] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module: str, name: str) -> Callable:
        """The stand-in of a class; raises UnpicklingError for all but those of arrays."""
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return lambda *arguments: _array_of(*arguments)
        if f"{module}.{name}" not in _STANDINS:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, which an array of numbers does not need; "
                "do not open it with other tools before you know where it is from"
            )
        return _STANDINS[f"{module}.{name}"]
