# SPDX-License-Identifier: Apache-2.0
"""Images: the RPCs of the ImageService (`rpcs`), and the pull that brings images from registries and files.

`client` talks to registries, in a confined process; `stage1.rootfs` makes of layers what a guest can overlay;
`cri.store.images` remembers.
"""
