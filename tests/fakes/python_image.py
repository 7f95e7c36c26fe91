# SPDX-License-Identifier: Apache-2.0
"""An image with Debian's python3 and a web server that counts requests in its memory: this machine's interpreter, its
libraries and the modules that the server loads, on top of the sample's busybox. For a test that wants a real program.
"""

import subprocess
from pathlib import Path

from tests.fakes import sample
from tests.fakes.oci_layout import Entry, Layer, file, tar

PYTHON = "/usr/bin/python3"
COMMAND = ("/usr/bin/python3", "-ISB", "/server.py")
SERVER = b"""
import http.server, socketserver

class Counter(http.server.BaseHTTPRequestHandler):
    count = 0

    def do_GET(self):
        Counter.count += 1
        body = b"%d\\n" % Counter.count
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("", 80), Counter).serve_forever()
"""
_LOADED = """
import sys, encodings.idna, encodings.ascii, encodings.latin_1, {modules}
for one in sys.modules.values():
    if getattr(one, "__file__", None):
        print(one.__file__)
"""


def why_not() -> str:
    """What this machine lacks for it; empty when nothing."""
    if not Path(PYTHON).exists() or not Path("/etc/debian_version").exists():
        return f"needs Debian's {PYTHON}: apt install python3-minimal"
    return ""


def make(place: Path, guest_dir: Path, *, program: bytes = SERVER, modules: str = "http.server") -> str:
    """The layout at `place`, with the `program`, which imports these `modules`; its reference."""
    loaded = _lines(PYTHON, "-ISBc", _LOADED.format(modules=modules))
    binaries = [PYTHON, *(path for path in loaded if path.endswith(".so"))]
    entries = [_file(path) for path in sorted({*binaries, *loaded, *_libraries(binaries)})]
    layer = Layer(tar([*entries, file("server.py", program)]))
    return sample.image(place, [sample.busybox(guest_dir), layer], Env=["PATH=/bin:/usr/bin"])


def _libraries(binaries: list[str]) -> list[str]:
    """What the dynamic linker loads for them, and that itself."""
    fields = (word.rstrip(":") for line in _lines("ldd", *binaries) for word in line.split())
    return [word for word in fields if word.startswith("/")]


def _lines(*argv: str) -> list[str]:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout.splitlines()


def _file(path: str) -> Entry:
    """The file under its requested name, with links resolved."""
    return file(path.lstrip("/"), Path(path).read_bytes(), 0o755)
