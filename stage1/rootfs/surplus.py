# SPDX-License-Identifier: Apache-2.0
"""Finds what mkfs.erofs 1.8 leaves visible in a merged image although a layer in between had removed it.

Called by `merge`. When one layer has a directory, the next removes it (a whiteout, a file in its place, the
opaque mark) and a third has the directory again, the first one's files shine through. Only looks, and only
at directories that several layers have.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from stage1.rootfs.erofs import Image


class _Child(NamedTuple):
    layer: int
    inode: int
    is_directory: bool


class _Visit(NamedTuple):
    """A directory: the layers that contribute to it, lowest first, and whether others were cut off below
    them.
    """

    path: str
    nodes: Sequence[_Child]
    is_cut: bool


def find_surplus(images: Sequence[Image]) -> Iterator[tuple[str, set[str]]]:
    """The directories that may show too much in the merge of `images` (lowest first): each path, and the names that
    it may have.
    """
    todo = [_Visit("", [_Child(n, image.root, True) for n, image in enumerate(images)], False)]
    while todo:
        visit = _without_hidden(images, todo.pop())
        if not visit.is_cut and len(visit.nodes) < 2:
            continue
        children = _children(images, visit.nodes)
        if visit.is_cut:
            yield visit.path, set(children)
        for name, nodes in children.items():
            child = _descend(f"{visit.path}/{name}" if visit.path else name, nodes, is_cut=visit.is_cut)
            if child.nodes:
                todo.append(child)


def _without_hidden(images: Sequence[Image], visit: _Visit) -> _Visit:
    """Without the layers below an opaque one. mkfs.erofs heeds the mark in the uppermost layer only, and gets none of a
    layer's root.
    """
    last = len(visit.nodes) - 1
    for position in range(last, 0, -1):
        image = images[visit.nodes[position].layer]
        if image.is_opaque(image.inode(visit.nodes[position].inode)):
            is_cut = visit.is_cut or position < last or (image.hides_all and not visit.path)
            return _Visit(visit.path, visit.nodes[position:], is_cut)
    return visit


def _children(images: Sequence[Image], nodes: Sequence[_Child]) -> dict[str, list[_Child]]:
    seen: dict[str, list[_Child]] = {}
    for node in nodes:
        for name, inode, is_directory in images[node.layer].children(node.inode):
            seen.setdefault(name, []).append(_Child(node.layer, inode, is_directory))
    return seen


def _descend(path: str, children: Sequence[_Child], *, is_cut: bool) -> _Visit:
    nodes: list[_Child] = []
    removed = False
    for child in children:
        if child.is_directory:
            is_cut = is_cut or removed
            nodes.append(child)
        else:
            removed = removed or bool(nodes)
            nodes = []
    return _Visit(path, nodes, is_cut)
