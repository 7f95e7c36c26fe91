# SPDX-License-Identifier: Apache-2.0
"""The way from the layers of an image to a directory that the guest can overlay, and the disk that it writes to.

A layer becomes one erofs blob, named after its diff id and shared by all images (`layers`); an image
becomes a small erofs file that merges the blobs (`merge`); a pod mounts that (`share`). Only pulls
write here.
"""
