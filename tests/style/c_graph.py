# SPDX-License-Identifier: Apache-2.0
"""The include graph of a C program, by unit: a source and the header of the same name are one.

Used by the style tests only. Reads a folder; knows nothing of which dependencies are allowed.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.style import c_scan

Graph = dict[str, set[str]]


def _files(top: Path) -> list[Path]:
    return sorted(path for path in top.rglob("*.[ch]") if path.is_file())


def _target(path: Path, name: str, top: Path) -> str | None:
    """The unit that an include leads to: next to the file, or below `top`; None when it is generated."""
    places = (path.parent / name, top / name)
    result = next((place.resolve() for place in places if place.is_file()), None)
    return str(result.relative_to(top.resolve()).with_suffix("")) if result else None


def graph(top: Path) -> Graph:
    """Map each unit, a path below `top` without its suffix, to the units that it includes."""
    edges: Graph = {}
    for path in _files(top):
        unit = str(path.relative_to(top).with_suffix(""))
        targets = (_target(path, name, top) for name in c_scan.includes(path.read_text(encoding="utf-8")))
        edges.setdefault(unit, set()).update(target for target in targets if target and target != unit)
    return edges


def circle(edges: Graph) -> list[str]:
    """Units that depend on each other; empty when there are none."""
    left = {unit: set(targets) for unit, targets in edges.items()}
    while free := [unit for unit, targets in left.items() if not targets & left.keys()]:
        for unit in free:
            del left[unit]
    return sorted(left)


def upward(edges: Graph, layers: tuple[str, ...]) -> Iterator[str]:
    """Dependencies that lead out of the layers, `above` first: `|` separates the folders and units of one."""
    ranks = {part.strip(): rank for rank, layer in enumerate(layers) for part in layer.split("|")}
    for unit, targets in sorted(edges.items()):
        rank = _rank(unit, ranks)
        if rank is None:
            yield f"{unit} is in no layer"
        for target in sorted(targets):
            below = _rank(target, ranks)
            if rank is not None and below is not None and below < rank:
                yield f"{unit} -> {target}"


def _rank(unit: str, ranks: dict[str, int]) -> int | None:
    folder = unit.rpartition("/")[0]
    return ranks.get(unit, ranks.get(folder))


def misplaced(top: Path) -> Iterator[str]:
    """Functions that are declared in one unit and defined in another: a dependency that the graph does not show."""
    homes = {}
    for path in _files(top):
        for function in c_scan.functions(path.read_text(encoding="utf-8")):
            homes.setdefault(function.name, set()).add(str(path.relative_to(top).with_suffix("")))
    for path in (path for path in _files(top) if path.suffix == ".h"):
        unit = str(path.relative_to(top).with_suffix(""))
        for name in c_scan.declarations(path.read_text(encoding="utf-8")):
            if unit not in homes.get(name, {unit}):
                yield f"{unit}.h declares {name}, which is in {' and '.join(sorted(homes[name]))}"
