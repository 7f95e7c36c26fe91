# SPDX-License-Identifier: Apache-2.0
"""The layers of an image as one file system, without copying their data: `merged.erofs` and `filecaps`.

Called by the pull when all layers are there, from a thread. `merged.erofs` holds the directories and points into the
blobs. The work is done by a confined process (`mergejob`), which sees the layers only.
"""

import os
from collections.abc import Sequence
from typing import Any

from stage1.rootfs import layout, mergejob, worker
from stage1.rootfs.layers import Place, check_image
from stage1.rootfs.worker import Asker, Question

_BASE_TIMEOUT_S, _BYTES_PER_S = 120.0, 5_000_000
_SLACK_BYTES = 64 << 20


def merge(image_id: str, place: Place, *, diff_ids: Sequence[str], out_dir: str) -> Any:
    """Write `merged.erofs` and `filecaps` into `out_dir`; `diff_ids` are lowest first, their blobs exist. What comes
    back is foreign: labels of a kernel in the image, of `own_kernel.FILE`.

    Raises NoSpace, Corrupt, OverLimit, TimedOut, Stopped, KernelError; nothing is left then.
    """
    sources = []
    for number, diff_id in enumerate(diff_ids):
        sources.append((layout.layer_path(place.layers_dir, diff_id), mergejob.blob(number)))
        sources.append((layout.facts_path(place.layers_dir, diff_id), mergejob.known(number)))
    box = f"{place.work_dir}/{layout.hex_of(image_id)}.merge"
    try:
        # mkfs.erofs asks for the absolute paths of its sources, and only root can enter the directories above them. So
        # this process stays root; it has no capability, and Landlock leaves it `in` and `out`.
        limits = place.limits._replace(uid=0)
        worker.make_box(box, uid=0, sources=sources)
        total = sum(os.path.getsize(path) for path, _ in sources)
        question = Question(
            "stage1.rootfs.mergejob",
            (image_id, str(len(diff_ids))),
            f"the image {image_id}",
            _BASE_TIMEOUT_S + total / _BYTES_PER_S,
            box,
            total + _SLACK_BYTES,
        )
        answer = worker.ask(question, Asker(limits, place.stop, place.server))
        merged = f"{out_dir}/{mergejob.MERGED}"
        worker.adopt(box, mergejob.MERGED, target=merged, most_bytes=total + _SLACK_BYTES)
        check_image(merged)
        target, most = f"{out_dir}/{mergejob.CAPABILITIES}", mergejob.MOST_CAPABILITY_BYTES
        worker.adopt(box, mergejob.CAPABILITIES, target=target, most_bytes=most)
        return answer
    finally:
        worker.remove_box(box)
