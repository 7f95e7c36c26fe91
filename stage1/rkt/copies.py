# SPDX-License-Identifier: Apache-2.0
"""rkt's pods as copies of a template: whether a pod's VM is one, and what is made later where there was none. Used
where templates are allowed (`machine.templates`) and the hypervisor has them.

A pod never fails for a template, and never waits until one is made: `run` writes down what it would have used, and `gc`
of that pod makes it (stage1/entry/templating.py).
"""

import json
import os

from stage1.errors import BadRequest, PodError
from stage1.linux import files
from stage1.machine import MIB
from stage1.pod.model import Pod
from stage1.rkt import directory
from stage1.snapshot.format import find_at_once
from stage1.snapshot.machine import spec_of
from stage1.vm.spec import VmSpec

MISSING = "missing-template"
"""The file in the pod's directory that names the VM for which there was no template."""
_VERSION = 1
_KEPT = ("memory_mib", "vcpus", "scratch_mib")


def find(vm: VmSpec, pod: Pod, *, pod_dir: str, top: str) -> tuple[VmSpec | None, tuple[str, ...]]:
    """The VM of the pod as a copy of a template in `top`; None when it boots. And sentences about what was no good."""
    try:
        spec = spec_of(pod, stored(vm, pod_dir), scratch_bytes=pod.scratch_mib * MIB)
        if spec is None:
            return None, ()
        template = find_at_once(top, spec.name)
        if template is None:
            _note(pod_dir, pod, vm=vm)
            return None, ()
        return vm._replace(nics=spec.vm.nics, kernel_arguments=spec.vm.kernel_arguments, template=template), ()
    except (PodError, OSError) as error:
        return None, (f"the pod boots: {error}",)


def stored(vm: VmSpec, pod_dir: str) -> VmSpec:
    """Return the VM with paths of the guest's files that hold for all pods of the stage1 image, not for this
    one only.
    """
    seen, shared = f"{directory.stage1_root(os.path.realpath(pod_dir))}/", f"{directory.stored_root(pod_dir)}/"

    def there(path: str) -> str:
        return shared + path.removeprefix(seen) if path.startswith(seen) else path

    return vm._replace(kernel=there(vm.kernel), initramfs=there(vm.initramfs), system_image=there(vm.system_image))


def _note(pod_dir: str, pod: Pod, *, vm: VmSpec) -> None:
    kept = {name: getattr(pod, name) for name in _KEPT}
    document = {"v": _VERSION, "hypervisor": vm.hypervisor.name, "devices": len(vm.nics), "kernel": pod.kernel, **kept}
    files.write_atomic(f"{pod_dir}/{MISSING}", json.dumps(document).encode())


def missing(pod_dir: str) -> tuple[Pod, int] | None:
    """A pod whose VM is as that of the pod in `pod_dir`, and how many network devices it has; None when there was a
    template for that. Raises BadRequest.
    """
    path = f"{pod_dir}/{MISSING}"
    try:
        document = json.loads(files.read(path))
        if document["v"] != _VERSION:
            return None  # another version's
        memory_mib, vcpus, scratch_mib = (int(document[name]) for name in _KEPT)
        pod = Pod(
            id=directory.uuid(pod_dir),
            name="template",
            namespace="rkt",
            hypervisor=str(document["hypervisor"]),
            memory_mib=memory_mib,
            vcpus=vcpus,
            scratch_mib=scratch_mib,
            kernel=str(document.get("kernel", "")),
        )
        return pod, int(document["devices"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path} is damaged: {error!r}; it goes with the pod") from None
