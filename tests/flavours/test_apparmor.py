# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles in guests: the default one, one of the node's owner, none; and what can't be applied."""

import re
import shutil
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.translate.apparmor import COMPILED, COMPILER
from stage1.pod.apparmor import DEFAULT
from tests.flavours.conftest import UNCONFINED, Pods, privileged_sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
IMAGE = "net"
WHO = "cat /proc/self/attr/current"
CALL = 'my @on = ("none", "/mnt", "tmpfs"); syscall(165, @on, 0, 0) == 0 or print "no: $!\\n"'
MOUNT = f"perl -e '{CALL}'; grep ' /mnt ' /proc/mounts || :"
"""Says why not: capabilities and filters of system calls refuse it by EPERM, AppArmor by EACCES."""
PROFILE = """profile deny-write flags=(attach_disconnected) {
  file,
  capability,
  deny /tmp/** w,
}
"""


def local(name: str) -> pb.SecurityProfile:
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=name)


async def test_no_profile_means_the_default_one_also_for_an_exec(pods: Pods) -> None:
    async with pods.running("web") as (pod,):
        held = await pod.start("exec sleep 1000", name="held", caps=("SYS_ADMIN",))
        assert await pod.exec(held, WHO) == f"{DEFAULT} (enforce)\n"
        output = await pod.exec(held, f"{MOUNT}; touch /tmp/x; echo wrote")
        assert output == "no: Permission denied\nwrote\n"
        output = await pod.run(f"{WHO}; {MOUNT}", name="free", apparmor=UNCONFINED, caps=("SYS_ADMIN",))
        assert output.startswith("unconfined\n") and "none /mnt tmpfs" in output


async def test_a_privileged_container_has_none_unless_it_names_one(pods: Pods) -> None:
    async with pods.running("web", linux=privileged_sandbox()) as (pod,):
        assert "unconfined" in await pod.run(WHO, name="root", privileged=True)


async def test_a_profile_of_the_owner_is_compiled_loaded_and_enforced(pods: Pods, tmp_path: Path) -> None:
    if not shutil.which(COMPILER, path="/usr/sbin:/sbin:/usr/bin"):
        pytest.skip(f"needs {COMPILER}: apt install apparmor")
    (tmp_path / "deny-write").write_text(PROFILE)
    pods.use(apparmor_dir=str(tmp_path))
    async with pods.running("web") as (pod,):
        script = f"{WHO}; ! touch /tmp/x; touch /root/x; echo wrote; {MOUNT}; dmesg | grep DENIED"
        output = await pod.run(script, name="c", apparmor=local("deny-write"), caps=("SYS_ADMIN", "SYSLOG"))
        assert "deny-write (enforce)" in output and "/tmp/x': Permission denied" in output and "wrote" in output
        assert "no: Permission denied" in output
        assert re.search(r'apparmor="DENIED" operation="mount" .*profile="deny-write" name="/mnt/"', output)


async def test_what_can_not_be_applied_is_reported_when_the_container_is_made(pods: Pods, tmp_path: Path) -> None:
    (tmp_path / "future").write_bytes(COMPILED + b"\x02\xff\xff\xff\xff" + b"\x04\x07\x00future\0")
    pods.use(apparmor_dir=str(tmp_path))
    async with pods.running("web") as (pod,):
        assert await pod.refused(apparmor=local("future")) == "INVALID_ARGUMENT"
        assert await pod.refused(apparmor=local("absent")) == "NOT_FOUND"
    async with pods.running("web", kernel="default") as (pod,):
        assert await pod.refused(apparmor=local("future")) == "UNIMPLEMENTED"
