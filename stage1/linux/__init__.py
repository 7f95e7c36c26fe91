# SPDX-License-Identifier: Apache-2.0
"""The kernel, thin: what the standard library lacks or imports too much for. Knows nothing of pods."""
