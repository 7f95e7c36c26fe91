# SPDX-License-Identifier: Apache-2.0
"""The table of RPCs: each has its function, in the module that the table names, and no function is left over."""

import inspect
import re
from types import ModuleType

import pytest

from cri import server
from cri.pb import runtime_pb2 as pb

MODULES = {module for modules in server.SERVICES.values() for module in modules}


def _functions(module: ModuleType) -> set[str]:
    """Functions of the module's own that take a request of a client and return an answer."""
    return {
        name
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and list(inspect.signature(function).parameters) == ["node", "request"]
        and re.search("Response|NoReturn", str(inspect.signature(function).return_annotation))
    }


@pytest.mark.parametrize("module", sorted(MODULES, key=lambda one: one.__name__), ids=lambda one: one.__name__)
def test_every_rpc_has_its_function_and_every_function_its_rpc(module: ModuleType) -> None:
    named = {server.snake(name) for modules in server.SERVICES.values() for name in modules.get(module, "").split()}
    assert _functions(module) == named


def test_every_rpc_of_ours_has_messages_of_the_cri() -> None:
    methods = {method.name for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods}
    assert server.functions("clearpod.v1.Pods").keys() == server.OURS.keys()
    assert {name for like in server.OURS.values() for name in like} <= methods
    assert not server.OURS.keys() & methods
