# SPDX-License-Identifier: Apache-2.0
"""Names that the host and the guest's agent use for AppArmor. Used by the engine and the daemon. Constants only."""

DEFAULT = "clearpod-default"
"""The profile of containers that ask for no other: images/apparmor."""
FILE = "apparmor-default"
"""Its compiled policy, in the guest's directory."""
FEATURES = "apparmor-features"
"""The file with the AppArmor features of the guest's kernel, for compiling policies; also in the guest's directory."""
POLICY = "apparmor"
"""A container's compiled policy, in its bundle, when Create says `apparmor`."""
