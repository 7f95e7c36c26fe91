# SPDX-License-Identifier: Apache-2.0
"""The one error of `json`, where the interpreter's scanner looks for it: `json.decoder.JSONDecodeError`."""


class JSONDecodeError(ValueError):
    """A text that is no JSON, and where."""

    def __init__(self, msg, doc, pos):
        self.lineno = doc.count("\n", 0, pos) + 1
        self.colno = pos - doc.rfind("\n", 0, pos)
        super().__init__(f"{msg}: line {self.lineno} column {self.colno} (char {pos})")
        self.msg, self.doc, self.pos = msg, doc, pos
