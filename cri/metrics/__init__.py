# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint: what is counted (`families`), looked up (`sight`) and served (`server`).

Loaded by `cri.server` when metrics are wanted, and by nobody else.
"""
