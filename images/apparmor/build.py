# SPDX-License-Identifier: Apache-2.0
"""The AppArmor profile of containers that ask for no other, compiled for the kernel `stock`, whose guests load it.

Called by images/build with that kernel. `features` is what that kernel's AppArmor can, as the kernel itself says
(/sys/kernel/security/apparmor/features): what it does not know is left out of the policy.
"""

import shutil
from pathlib import Path

from lib import cache, tools

HERE = Path(__file__).parent
NAME = "apparmor-default"
"""The compiled policy, in the guest's directory."""
FEATURES_NAME = "apparmor-features"
"""What that kernel can, beside it: the daemon compiles the profiles of the node's owner by it."""
PROFILE, FEATURES = HERE / "default.profile", HERE / "features"
PARSER = "apparmor_parser"


def build(cache_dir: Path) -> Path:
    """The directory with the policy and the features. Raises BuildFailed, also for a profile that does not parse."""
    tools.need({PARSER: "apparmor"})
    version = tools.package_version("apparmor")
    return cache.built(cache_dir, "apparmor", cache.hash_of([version, HERE]), _fill)


def _fill(out: Path) -> None:
    compile_to(out / NAME)
    shutil.copyfile(FEATURES, out / FEATURES_NAME)


def compile_to(target: Path, profile: Path = PROFILE) -> None:
    """Compile a profile for the kernel `stock`. Raises BuildFailed."""
    only = ["--skip-kernel-load", "--skip-cache", "--quiet", f"--features-file={FEATURES}"]
    tools.run([PARSER, *only, f"--ofile={target}", profile])
