# SPDX-License-Identifier: Apache-2.0
"""The layers that the stand-in images are put together from, each built once per machine and kept in the cache.

Called by `stand_ins`. Everything comes from Debian: the source of busybox, the packages of nginx, a C compiler.
"""

import os
import re
import stat
from pathlib import Path

from tests.conformance.debian import fetch_packages, fetch_source
from tests.fakes.builders import cache, oci
from tests.lab.debian_kernel import run

HERE = Path(__file__).parent
NGINX = ("nginx", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3t64", "zlib1g", "libzstd1")
NGINX_PLACES = ("usr/sbin/nginx", "usr/lib/x86_64-linux-gnu", "usr/lib64")
# Debian's busybox-static is its applets itself, whatever is mounted over them. `tc` wants older kernel headers.
OPTIONS = {"STATIC": "y", "FEATURE_SH_STANDALONE": "n", "FEATURE_PREFER_APPLETS": "n", "FEATURE_SH_NOFORK": "n",
           "TC": "n", "STATIC_LIBGCC": "y"}  # fmt: skip
PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
default-user:x:1000:1000::/:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = b"root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\nnogroup:x:65534:\n"
NGINX_CONF = """\
user www-data;
pid /var/run/nginx.pid;
daemon off;
error_log stderr;
events {}
http { access_log /dev/stdout; server { listen %d; location / { return 200 "clearpod\\n"; } } }
"""


def busybox_program(cache_dir: Path) -> Path:
    """A static busybox of all applets that runs them from PATH."""
    key = cache.hash_of([repr(OPTIONS), Path(__file__)])
    return cache.built(cache_dir, "busybox", key, _build_busybox) / "busybox"


def _build_busybox(out: Path) -> None:
    cache.say("building busybox from Debian's source, for the conformance images (a minute, once per machine)")
    tree = fetch_source("busybox", out)
    run(["make", "-s", "defconfig"], cwd=tree)
    config = tree / ".config"
    config.write_text(configured(config.read_text()))
    run(["sh", "-c", "yes '' | make -s oldconfig >/dev/null"], cwd=tree)
    run(["make", "-s", f"-j{os.cpu_count()}", "EXTRA_CFLAGS=-w", "busybox"], cwd=tree)
    (tree / "busybox").rename(out / "busybox")
    run(["sh", "-c", 'rm -rf -- "$1" ./*.dsc ./*.tar.*', "sh", str(tree)], cwd=out)


def configured(text: str) -> str:
    """A kbuild configuration with our options instead of its own. Pure."""
    names = "|".join(OPTIONS)
    kept = [line for line in text.splitlines() if not re.match(rf"(# )?CONFIG_({names})[= ]", line)]
    ours = [f"CONFIG_{name}=y" if value == "y" else f"# CONFIG_{name} is not set" for name, value in OPTIONS.items()]
    return "\n".join([*kept, *ours, ""])


def busybox_layer(program: Path) -> bytes:
    """A small root file system whose applets are hard links, so that one can be masked without the others."""
    names = [name for name in run([str(program), "--list"]).split() if name != "busybox"]
    directories = [oci.File(f"{name}/", mode=0o755) for name in ("bin", "dev", "etc", "proc", "sys", "var", "var/run",
                                                             "var/www", "var/log", "home", "usr", "mnt")]  # fmt: skip
    return oci.tar([
        *directories,
        oci.File("root/", mode=0o700),
        oci.File("tmp/", mode=0o1777),
        oci.File("etc/passwd", PASSWD),
        oci.File("etc/group", GROUP),
        oci.File("bin/busybox", program.read_bytes(), 0o755),
        *(oci.File(f"bin/{name}", mode=0o755, link="bin/busybox", hard=True) for name in names),
    ])  # fmt: skip


def nginx_layer(cache_dir: Path, port: int) -> bytes:
    """Debian's nginx with what it links to, answering on `port` as a foreground process."""
    key = cache.hash_of([repr((NGINX, NGINX_PLACES)), Path(__file__)])
    tree = cache.built(cache_dir, "nginx", key, lambda out: fetch_packages(NGINX, out))
    files = [file for place in NGINX_PLACES for file in _files(tree, tree / place)]
    files += [
        oci.File("lib64", link="usr/lib64"),
        oci.File("lib", link="usr/lib"),
        oci.File("var/lib/nginx/", mode=0o755),
    ]
    return oci.tar([*files, oci.File("etc/nginx/nginx.conf", (NGINX_CONF % port).encode())])


def _files(root: Path, place: Path) -> list[oci.File]:
    paths = [place] if place.is_file() else sorted(place.glob("*"))
    made = []
    for path in paths:
        name, mode = str(path.relative_to(root)), path.lstat().st_mode
        if path.is_symlink():
            made.append(oci.File(name, link=os.readlink(path)))
        elif path.is_file():
            made.append(oci.File(name, path.read_bytes(), stat.S_IMODE(mode)))
    return made


def program_layer(cache_dir: Path, name: str, *, mode: int = 0o755) -> bytes:
    """A layer with one static C program of ours, `/<name>`."""
    key = cache.hash_of([HERE / f"{name}.c", Path(__file__)])
    built = cache.built(cache_dir, "conformance", key, lambda out: _compile(HERE / f"{name}.c", out / name))
    return oci.tar([oci.File(name, (built / name).read_bytes(), mode)])


def _compile(source: Path, target: Path) -> None:
    run(["musl-gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", str(target), str(source)])
