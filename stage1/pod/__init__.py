# SPDX-License-Identifier: Apache-2.0
"""The pod model: values, states, and the OCI documents made of them. Pure: no I/O."""
