# SPDX-License-Identifier: Apache-2.0
"""An image pulled by a test that has no event loop. Used by the tests of images, volumes and VMs."""

import asyncio

from cri.config import Config
from cri.image.pull import pull
from cri.store.images import Image, ImageStore


def pull_blocking(store: ImageStore, reference: str, *, config: Config) -> Image:
    """As `pull`, which it runs in a loop of its own."""
    return asyncio.run(pull(store, reference, config=config))
