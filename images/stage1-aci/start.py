# SPDX-License-Identifier: Apache-2.0
"""What the launcher runs with the bundled Python: `start.pyc NAME ARGUMENT...`, NAME being an entry point's.

All modules are in one file beside this one, `modules`: to look for eighty files one by one takes as long as half of the
interpreter's own start. This is a file and not `-m` or `-c`, for which the interpreter would import modules of its own.
"""

import gc
import marshal
import sys
from _frozen_importlib import ModuleSpec


class Modules:
    """Finds and loads modules of a file: four bytes that say how long the index is, the index, the marshalled code.

    The index is marshalled: names and (is a package, where its code begins and ends); where each group of modules
    begins and ends; names and numbers of their groups. The code of a group is marshalled once more, as one dictionary:
    who needs most of it reads it in three quarters of the time, since names that several modules have are there once.
    """

    def __init__(self, path, *, with_groups):
        with open(path, "rb") as file:
            data = memoryview(file.read())
        begin = 4 + int.from_bytes(data[:4], "little")
        self._code = data[begin:]
        self._index, self._groups, self._group_of = marshal.loads(data[4:begin])
        if not with_groups:
            self._group_of = {}
        self._read = {}

    def __iter__(self):
        return iter(self._index)

    def find_spec(self, name, path=None, target=None):
        """For the interpreter: whether the module is ours."""
        entry = self._index.get(name)
        return ModuleSpec(name, self, is_package=entry[0]) if entry else None

    def create_module(self, spec):
        """For the interpreter: an ordinary module."""

    def exec_module(self, module):
        """For the interpreter: fill the module."""
        exec(self._code_of(module.__name__), module.__dict__)  # noqa: S102 - it is ours

    def _code_of(self, name):
        number = self._group_of.get(name)
        if number is None:
            _, begin, end = self._index[name]
            return marshal.loads(self._code[begin:end])
        if number not in self._read:
            begin, end = self._groups[number]
            self._read[number] = marshal.loads(self._code[begin:end])
        return self._read[number][name]


modules = Modules(__file__.removesuffix("start.pyc") + "modules", with_groups=sys.argv[1:2] == ["run"])
sys.meta_path.insert(0, modules)

# A program makes some fifteen thousand objects that it keeps, and hardly any circle of them: six collections of garbage
# are two million instructions of `run`. One that lives long is collected as it grows.
gc.set_threshold(50_000)

if __name__ == "__main__":
    from stage1.entry import dispatch

    dispatch.leave(dispatch.enter(sys.argv[1], sys.argv[2:]))
