# SPDX-License-Identifier: Apache-2.0
"""Images: one file per RPC of the ImageService, and the pull that brings images from registries and files.

skopeo talks to registries; `stage1.rootfs` makes of layers what a guest can overlay; `cri.store.images`
remembers.
"""
