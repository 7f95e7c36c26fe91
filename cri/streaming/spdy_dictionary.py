# SPDX-License-Identifier: Apache-2.0
"""The dictionary with which SPDY/3 presets zlib: a constant of the protocol. Used by `spdy` only."""

import zlib

_TOKENS = """
    options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|
    authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|
    content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|
    keep-alive|origin
"""
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
CHECKSUM = 0xE3C6A7C2
"""adler32 of the dictionary; zlib streams name it by that."""


def dictionary() -> bytes:
    """Return the dictionary of SPDY/3, 1423 bytes: each token behind its length, then the tail."""
    tokens = [token.strip().encode() for token in _TOKENS.split("|")]
    made = b"".join(len(token).to_bytes(4, "big") + token for token in tokens) + _TAIL.encode()
    assert zlib.adler32(made) == CHECKSUM, "the dictionary of SPDY/3 was changed"
    return made
