# SPDX-License-Identifier: Apache-2.0
"""Where things lie in the state directory, and how digests are written. Pure; used by rootfs and the image
store.

layers/<hex>.erofs   a layer; <hex> is its diff id without "sha256:"
layers/<hex>.json    what merging needs to know of it (`facts`)
layers/<hex>.seal    sizes and checksums of these two (`seal`); none in stores of former versions
images/<hex>/        config.json manifest.json merged.erofs filecaps, and `seal` for these
tmp/                 whatever is half done; nothing in it survives a start
"""

from stage1.errors import BadRequest

_HEX = frozenset("0123456789abcdef")


def hex_of(digest: str) -> str:
    """The 64 hex digits of a `sha256:` digest. Raises BadRequest, so that no other text becomes a file
    name.
    """
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != 64 or not _HEX.issuperset(digits):
        raise BadRequest(f"{digest[:100]!r} is not a sha256 digest")
    return digits


def uuid_of(digest: str) -> str:
    """A file system UUID that depends on nothing but `digest`, so that blobs can be reproduced."""
    digits = hex_of(digest)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def layer_path(layers_dir: str, diff_id: str) -> str:
    """The erofs blob of a layer."""
    return f"{layers_dir}/{hex_of(diff_id)}.erofs"


def facts_path(layers_dir: str, diff_id: str) -> str:
    """The facts of a layer, written before its blob: where the blob is, they are."""
    return f"{layers_dir}/{hex_of(diff_id)}.json"


def seal_path(layers_dir: str, diff_id: str) -> str:
    """The seal of a layer, written before its blob too."""
    return f"{layers_dir}/{hex_of(diff_id)}.seal"


SEAL = "seal"
"""That of an image's own files, in its directory."""
