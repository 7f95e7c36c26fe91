# SPDX-License-Identifier: Apache-2.0
"""What the launcher runs with the bundled Python: `start.pyc NAME ARGUMENT...`, NAME being an entry point's.

All modules are in one file beside this one, `modules`: to look for eighty files one by one takes as long as half of the
interpreter's own start. This is a file and not `-m` or `-c`, for which the interpreter would import modules of its own.
"""

import marshal
import sys
from _frozen_importlib import ModuleSpec


class Modules:
    """Finds and loads modules of a file: a dictionary, marshalled, of names and (is a package, marshalled code)."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self._code = marshal.loads(file.read())

    def __iter__(self):
        return iter(self._code)

    def find_spec(self, name, path=None, target=None):
        """For the interpreter: whether the module is ours."""
        found = self._code.get(name)
        return ModuleSpec(name, self, is_package=found[0]) if found else None

    def create_module(self, spec):
        """For the interpreter: an ordinary module."""

    def exec_module(self, module):
        """For the interpreter: fill the module."""
        exec(marshal.loads(self._code[module.__name__][1]), module.__dict__)  # noqa: S102 - it is ours


modules = Modules(__file__.removesuffix("start.pyc") + "modules")
sys.meta_path.insert(0, modules)

if __name__ == "__main__":
    from stage1.entry import door

    sys.exit(door.enter(sys.argv[1], sys.argv[2:]))
