# SPDX-License-Identifier: Apache-2.0
"""Images that bring a kernel of their own: the test's hello, built by tests/kernels. For the tests of such pods."""

from collections.abc import Mapping
from pathlib import Path

from stage1.pod.own_kernel import OURS
from tests.fakes.c_program import CHECKOUT, make
from tests.fakes.oci_layout import Entry, Layer, Layout, file, tar
from tests.fakes.registry import Registry


def hello() -> bytes:
    """The kernel of tests/kernels/hello.c."""
    out = CHECKOUT / "build" / "test-kernels"
    make(CHECKOUT / "tests" / "kernels", out)
    return (out / "hello").read_bytes()


def labelled(**labels: str) -> dict[str, str]:
    """Labels of ours: `path`, `network` and so on."""
    return {f"{OURS}{key.replace('_', '-')}": text for key, text in labels.items()}


def push(registry: Registry, place: Path, name: str, *, files: list[Entry], labels: Mapping[str, str]) -> str:
    """An image of these files with these labels in the registry; its reference."""
    layout = Layout(place / name.replace("/", "-").replace(":", "-"))
    image = layout.image([Layer(tar(files))], config={"Labels": dict(labels)})
    return registry.push(layout.tag("1", image), name)


def hello_image(registry: Registry, place: Path, name: str, **labels: str) -> str:
    """One with hello as /kernel, told its address as Linux is."""
    given = {"path": "/kernel", "network": "linux", **labels}
    return push(registry, place, name, files=[file("kernel", hello(), 0o755)], labels=labelled(**given))
