# SPDX-License-Identifier: Apache-2.0
"""The client of a lab whose machine stands still."""

import os
import socket
import threading
from pathlib import Path

import pytest

from tests.lab import client, protocol
from tests.lab.plan import port
from tests.lab.state import LabError


def serve(listener: socket.socket, *, beats: bool, code: int | None) -> None:
    """One order: a beat if wanted, the code if there is one; then silence until the client goes."""
    link, _ = listener.accept()
    lines = protocol.Lines()
    with link:
        job = next(message for message in iter(lambda: lines.feed(link.recv(65536)), None) for message in message)
        if beats:
            link.sendall(protocol.encode(id=job["id"], beat=True))
        if code is not None:
            link.sendall(protocol.encode(id=job["id"], code=code))
        link.recv(1)


@pytest.mark.parametrize(("beats", "code"), [(True, 3), (False, 3), (True, None)])
def test_silence_after_a_beat_is_a_machine_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: bool, code: int | None
) -> None:
    monkeypatch.setattr(protocol, "SILENCE_S", 0.2)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(tmp_path / port(0)))
    listener.listen()
    server = threading.Thread(target=serve, args=(listener,), kwargs={"beats": beats, "code": code})
    server.start()
    try:
        if code is None:
            with pytest.raises(LabError, match="its machine hangs") as caught:
                client.run(tmp_path, client.Job(["true"]))
            assert caught.value.code == protocol.LAB_FAILED
        else:
            assert client.run(tmp_path, client.Job(["true"])) == code
    finally:
        server.join()
        listener.close()
