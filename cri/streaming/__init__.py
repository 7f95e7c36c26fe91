# SPDX-License-Identifier: Apache-2.0
"""Exec, Attach and PortForward: the HTTP server to which the URLs of these RPCs lead, and its two protocols.

`server` is started with the daemon; everything else is loaded when the first client comes. Codecs are pure (`spdy`,
`formats`, `upgrade`), I/O is apart (`wire`, `spdy_session`, `websocket`).
"""
