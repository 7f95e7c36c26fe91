# SPDX-License-Identifier: Apache-2.0
"""What the host and the guest's agent call things of AppArmor. Used by the engine and the daemon. Constants only."""

DEFAULT = "clearpod-default"
"""The profile of containers that ask for no other: images/apparmor."""
FILE = "apparmor-default"
"""Its compiled policy, in the guest's directory."""
FEATURES = "apparmor-features"
"""What the guest's kernel can confine, for who compiles policies for it; in the guest's directory too."""
POLICY = "apparmor"
"""A container's compiled policy, in its bundle, when Create says `apparmor`."""
