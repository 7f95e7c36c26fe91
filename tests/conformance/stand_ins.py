# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the images that critest pulls, by the same names, in one OCI layout.

They contain what the specs examine. A registry on the loopback address serves them, to which the daemon is configured
to redirect registry.k8s.io, gcr.io and k8s.gcr.io.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conformance import parts
from tests.fakes.builders import oci

HOSTS = ("registry.k8s.io", "gcr.io", "k8s.gcr.io")
TOOLS = "k8s-staging-cri-tools"
USERS = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"}
HTTPD = "echo 'httpd: serving /var/www on port 80'; echo ok >/var/www/index.html; exec httpd -f -p 80 -h /var/www"
PATH = ["PATH=/bin:/usr/sbin"]


class Image(NamedTuple):
    """`name` as repository:tag below any of HOSTS; `more` are further tags of the same image."""

    name: str
    layers: Sequence[bytes]
    config: Mapping[str, Any]
    more: Sequence[str] = ()
    single: bool = False

    @property
    def ref(self) -> str:
        """Its name in the layout."""
        return self.name.replace("/", "-").replace(":", "-")


def images(cache_dir: Path) -> list[Image]:
    """All of them; the first call on a machine builds their parts."""
    base = parts.busybox_layer(parts.busybox_program(cache_dir))
    shell = {"Cmd": ["sh"], "Env": PATH}
    web = {"Cmd": ["nginx", "-c", "/etc/nginx/nginx.conf"], "Env": PATH}
    group = oci.tar([oci.File("etc/group", parts.GROUP + b"group-defined-in-image:x:50000:default-user\n")])
    nginx, host_nginx = (parts.nginx_layer(cache_dir, port) for port in (80, 12003))
    pause = [parts.program_layer(cache_dir, "pause")]
    nnp = [base, parts.program_layer(cache_dir, "nnp", mode=0o4755)]
    return [
        Image("e2e-test-images/busybox:1.29-2", [base], shell),
        Image("e2e-test-images/nginx:1.14-2", [base, nginx], web),
        Image("e2e-test-images/httpd:2.4.39-4", [base], {"Cmd": ["sh", "-c", HTTPD], "Env": PATH}),
        Image("e2e-test-images/nonewprivs:1.3", nnp, {"Entrypoint": ["/nnp"], "Env": PATH}),
        Image("pause:3.9", pause, {"Entrypoint": ["/pause"], "Env": PATH}),
        Image(f"{TOOLS}/hostnet-nginx-amd64:latest", [base, host_nginx], web, single=True),
        Image(f"{TOOLS}/test-image-predefined-group:latest", [base, group], {**shell, "User": "1000"}),
        *(
            Image(f"{TOOLS}/test-image-user-{key}:latest", [base], {**shell, "User": user})
            for key, user in USERS.items()
        ),
        *(_labelled(base, f"{TOOLS}/test-image-{name}") for name in ("latest:latest", "tag:test", "tag:all")),
        *(_labelled(base, f"{TOOLS}/test-image-{number}:latest") for number in (1, 2, 3)),
        _labelled(
            base, f"{TOOLS}/test-image-tags:1", more=(f"{TOOLS}/test-image-tags:2", f"{TOOLS}/test-image-tags:3")
        ),
    ]


def _labelled(base: bytes, name: str, more: Sequence[str] = ()) -> Image:
    """An image that differs from the others in its label only."""
    return Image(name, [base], {"Cmd": ["sh"], "Env": PATH, "Labels": {"stand-in-for": name}}, more)


def write(directory: Path, expected: Sequence[Image]) -> None:
    """Write the layout. As upstream's, an image is an index of two platforms, of which one is a dummy here."""
    layout, dummy = oci.Layout(directory), oci.tar([oci.File("dummy/")])
    for image in expected:
        if image.single:
            layout.add(image.ref, image.layers, image.config)
        else:
            ours = layout.manifest(image.layers, image.config)
            layout.add_index(image.ref, [ours, layout.manifest([dummy], image.config, arch="arm64")])
