# SPDX-License-Identifier: Apache-2.0
"""The commands that show pods and change nothing."""
