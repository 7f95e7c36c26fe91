# SPDX-License-Identifier: Apache-2.0
"""The pod's network: CNI plugins, taps, and the redirects between them."""
