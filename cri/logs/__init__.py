# SPDX-License-Identifier: Apache-2.0
"""Container log files in the CRI's format, written exactly once even when the daemon is killed.

One `writer.LogWriter` per container, fed by `feed` with the frames of its streams. `entries` cuts them into lines,
`place` opens the files, `record` keeps how far it got.
"""
