# SPDX-License-Identifier: Apache-2.0
"""What stage1 uses of `ctypes`, on the interpreter's own module; goes into the stage1 image under that name.

The library's makes three dozen types and as many functions that nobody asks for here.
"""

from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno

__all__ = [
    "CDLL", "CFUNCTYPE", "addressof", "c_char", "c_char_p", "c_int", "c_long", "c_size_t", "c_uint64", "get_errno",
]  # fmt: skip


class c_char(_SimpleCData):
    _type_ = "c"


class c_char_p(_SimpleCData):
    _type_ = "z"


class c_int(_SimpleCData):
    _type_ = "i"


class c_long(_SimpleCData):
    _type_ = "l"


class c_size_t(_SimpleCData):
    _type_ = "L"


c_uint64 = c_size_t


class CDLL:
    """A library, whose functions are attributes and return int; None is the program itself."""

    def __init__(self, name, *, use_errno=False):
        self._handle = dlopen(name, 0)
        flags = FUNCFLAG_CDECL | (FUNCFLAG_USE_ERRNO if use_errno else 0)
        self._kind = type("Function", (CFuncPtr,), {"_flags_": flags, "_restype_": c_int})

    def __getattr__(self, name):
        function = self._kind(dlsym(self._handle, name))
        setattr(self, name, function)
        return function


def CFUNCTYPE(result, *arguments, use_errno=False):
    """The type of a C function; made of an address, or of a name and a library, it can be called."""
    flags = FUNCFLAG_CDECL | (FUNCFLAG_USE_ERRNO if use_errno else 0)
    return type("Function", (CFuncPtr,), {"_flags_": flags, "_restype_": result, "_argtypes_": arguments})
