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

    The index is marshalled: names and (is a package, where its code begins and ends); where the code begins and ends of
    the modules that `run` loads. That is marshalled as one dictionary: names that several modules have are there once,
    and it is read in three quarters of the time.
    """

    def __init__(self, path, *, is_run):
        with open(path, "rb") as file:
            data = memoryview(file.read())
        begin = 4 + int.from_bytes(data[:4], "little")
        self._code = data[begin:]
        self._index, together = marshal.loads(data[4:begin])
        self._read = marshal.loads(self._code[slice(*together)]) if is_run else {}

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
        code = self._read.get(module.__name__) or self._alone(module.__name__)
        exec(code, module.__dict__)  # noqa: S102 - it is ours

    def _alone(self, name):
        _, begin, end = self._index[name]
        return marshal.loads(self._code[begin:end])


modules = Modules(__file__.removesuffix("start.pyc") + "modules", is_run=sys.argv[1:2] == ["run"])
sys.meta_path.insert(0, modules)

# A program makes some fifteen thousand objects that it keeps, and hardly any circle of them: six collections of garbage
# are two million instructions of `run`. One that lives long is collected as it grows.
gc.set_threshold(50_000)

if __name__ == "__main__":
    from stage1.entry import dispatch

    dispatch.leave(dispatch.enter(sys.argv[1], sys.argv[2:]))
