# SPDX-License-Identifier: Apache-2.0
"""Archives for an initramfs, made without cpio(1). Used by the tests that boot kernels."""


def newc(entries: list[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the kernel's newc format of (name, mode, content)."""
    blob = b""
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        blob += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        blob += b"\0" * (-len(blob) % 4) + content
        blob += b"\0" * (-len(blob) % 4)
    return blob
