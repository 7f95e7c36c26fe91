# SPDX-License-Identifier: Apache-2.0
"""clearpod's annotations of an rkt pod, of its apps and of their images: parsed, and refused when unknown. Called by
loader. Pure.

rkt's command line gives annotations to apps only, so an app may set values of its pod's one VM. An app's own win over
its image's, as in the App Container specification.
"""

from collections.abc import Iterable, Mapping

from stage1.errors import BadRequest, Unsupported
from stage1.pod.profile import WORD as PROFILE

OURS = "clearpod.io/"
MEMORY = "clearpod.io/memory-mib"
"""rkt, of a pod or an app: memory of the pod's VM in MiB, whatever the apps' limits add up to."""
VCPUS = "clearpod.io/vcpus"
"""rkt, of a pod or an app: vCPUs of the pod's VM."""
SCRATCH = "clearpod.io/scratch-mib"
"""rkt, of a pod or an app: size in MiB of the disk for empty volumes, and for roots by `clearpod.io/root`."""
KERNEL = "clearpod.io/kernel"
"""rkt, of a pod or an app: guest kernel: `default`, a variant such as `stock` that is in the stage1 image, or `image`
for an app whose image brings it.
"""
TEMPLATE = "clearpod.io/template"
"""rkt, of an app or its pod: `none` has the pod's VM boot, though it could be a copy of a template."""
ROOT = "clearpod.io/root"
"""rkt, of an app or its pod: `disk` has what the app writes to its root on the pod's disk, not in `rkt export`."""
_OF_VM = (MEMORY, VCPUS, SCRATCH, KERNEL)
"""Those of the VM, which all apps of a pod share."""
_KNOWN = (*_OF_VM, PROFILE, TEMPLATE, ROOT)
_AS_IT_IS = {f"{OURS}emptydir": "guest", f"{OURS}files": "host"}
"""What pods of the CRI may choose, by what all pods of rkt's have."""
_MANIFEST = "the pod manifest"


def settled(pod: Mapping[str, str], apps: Iterable[tuple[str, Mapping[str, str]]], *, only: str = "") -> dict[str, str]:
    """The pod's own annotations with those of the VM that its apps, (name for people, annotations) each, ask for. With
    `only`, that app is added to a pod whose VM runs.

    Raises BadRequest where two ask for different things, and Unsupported for what no pod of rkt's can have.
    """
    asked = dict(pod)
    _require_known(asked, where=_MANIFEST)
    askers = dict.fromkeys(asked, _MANIFEST)
    for where, own in apps:
        _require_known(own, where=where)
        _require_profile_of_pod(own, asked, where=where)
        for word in (word for word in _OF_VM if word in own and own[word] != asked.get(word)):
            if only or word in askers:
                raise _conflict(word, own[word], where=where, other=askers.get(word, ""))
            asked[word], askers[word] = own[word], where
    return asked


def of_app(own: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """An app's annotations, and those of its image that concern us where it has no other."""
    return {key: text for key, text in image.items() if key.startswith(OURS)} | dict(own)


def _conflict(word: str, text: str, *, where: str, other: str) -> BadRequest:
    if other:
        return BadRequest(
            f"{where} asks for {word}={text[:100]}, and {other} for something else, but the apps of a pod share one "
            "VM; let them ask for the same"
        )
    return BadRequest(
        f"{where} asks for {word}={text[:100]}, and the VM of its pod runs already; give the annotation to the pod, or "
        "to an app that it begins with"
    )


def _require_profile_of_pod(own: Mapping[str, str], pod: Mapping[str, str], *, where: str) -> None:
    """Raise Unsupported for an app that requests another userspace: `enter` uses the pod's."""
    if PROFILE in own and own[PROFILE] != pod.get(PROFILE):
        raise Unsupported(
            f"{where}: the annotation {PROFILE} is one of pods and not of apps; put it into the pod manifest, or use a "
            "stage1 image that scripts/build-aci --profile makes"
        )


def _require_known(given: Mapping[str, str], *, where: str) -> None:
    for word, text in given.items():
        if not word.startswith(OURS) or word in _KNOWN or _AS_IT_IS.get(word) == text:
            continue
        if usual := _AS_IT_IS.get(word):
            raise Unsupported(
                f"{where}: the annotation {word} can be {usual}, as rkt's pods have it, and not {text[:100]!r}"
            )
        raise Unsupported(
            f"{where}: the annotation {word[:100]} is not offered to rkt's pods; those that are: {', '.join(_KNOWN)}"
        )
