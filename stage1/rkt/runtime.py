# SPDX-License-Identifier: Apache-2.0
"""The options of `run`, kept in the pod's directory for the programs that rkt calls later without them. One versioned
JSON file, `runtime-config`; nothing of rkt's reads it.
"""

import json

from stage1.errors import BadRequest, NotFound
from stage1.linux import files
from stage1.rkt.arguments import RunOptions

FILE = "runtime-config"
VERSION = 1


def save(pod_dir: str, options: RunOptions) -> None:
    """Write it, whole or not at all. Readable by root alone: a metadata token is in it."""
    document = {"v": VERSION, "options": options._asdict(), "more": {}}  # `more`: former versions want it
    files.write_atomic(f"{pod_dir}/{FILE}", json.dumps(document).encode())


def load(pod_dir: str) -> RunOptions:
    """The options that `save` wrote. Raises NotFound if the pod never got so far, BadRequest if they are damaged."""
    path = f"{pod_dir}/{FILE}"
    try:
        document = json.loads(files.read(path))
        if document["v"] != VERSION:
            raise BadRequest(f"{path} has version {document['v']}; this stage1 reads version {VERSION}")
        options = {**document["options"], "warnings": tuple(document["options"]["warnings"])}
        return RunOptions(**options)
    except FileNotFoundError:
        raise NotFound(f"{path} is missing: this pod was not started, or by another stage1") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path} is damaged: {error!r}; stop the pod and remove it") from None
