# SPDX-License-Identifier: Apache-2.0
"""Which places of the host a jail has mounts of."""

import os
from pathlib import Path
from unittest.mock import ANY

from stage1.vm.jail import CHANGE, RUN_FILE, Place, outermost, places, rules
from stage1.vm.template import Template

from . import test_argv


def test_places_in_others_and_links_at_the_top_are_no_mounts_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    deep, top = Place(f"{tmp_path}/a/b"), Place(f"{tmp_path}/a")
    assert outermost([deep, top, deep], {}) == [top]
    writable = deep._replace(writable=True)
    assert outermost([writable, top], {}) == [top, writable]
    assert outermost([deep, top._replace(writable=True)], {}) == [top._replace(writable=True)]
    assert outermost([deep._replace(mapped=True), top], {}) == [top, deep._replace(mapped=True)]
    assert outermost([Place(f"{tmp_path}/absent")], {}) == []
    assert outermost([Place("/bin/sh"), Place("/usr")], {}) == ([Place("/usr")] if os.path.islink("/bin") else ANY)


def test_a_copy_or_loaded_guest_may_run_the_library_that_it_is_started_with_and_no_other_vm_sees_it() -> None:
    copy = test_argv.QEMU._replace(template=Template("/t/1"), memory_shim="/g/qemu-shim.so")
    plain = copy._replace(template=None)
    made = copy._replace(template=Template("/t/1", monitor=9))
    for vm, rights in (
        (copy, [RUN_FILE]), (plain._replace(is_resumed=True), [RUN_FILE]), (made, []), (plain, []),
    ):  # fmt: skip
        assert [right for path, right in rules(vm) if path == vm.memory_shim] == rights
        assert [place.writable for place in places(vm) if place.path == vm.memory_shim] == [False for _ in rights]


def test_a_copy_has_no_path_to_its_template_and_its_maker_may_write_there() -> None:
    for template, seen in ((Template("/t/1"), []), (Template("/t/1", monitor=9), [("/t/1/ram", True)])):
        vm = test_argv.QEMU._replace(template=template)
        assert [(place.path, place.writable) for place in places(vm) if "/t/1" in place.path] == seen
        (rights,) = (rights for path, rights in rules(vm) if path == template.memory)
        assert (rights == CHANGE) == template.is_made and bool(rights & CHANGE)
        assert not any("/t/1" in path for path, _ in rules(vm)) or template.is_made
