# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint: what is counted (`families`), read (`snapshot`) and served (`server`).

Loaded by `cri.server` only, if metrics are enabled.
"""
