# SPDX-License-Identifier: Apache-2.0
"""The Debian packages `clearpod`, with its Python dependencies in a directory of its own, and `clearpod-guest`, the
built guest; and the wheel that the first is made of. Called by scripts/build-deb with the Python of .venv.

Plain dpkg-deb: nothing is compiled here, and what is packed was built and tested before. It asks no network: the
dependencies are those of .venv, file by file. The same checkout, .venv and guest give the same bytes.
"""

import argparse
import gzip
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOME = "usr/lib/clearpod"
"""The private directory: a virtual environment, so that programs that the daemon starts find it too, and the guest."""
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
NEXT = f"{sys.version_info[0]}.{sys.version_info[1] + 1}"
SOURCES = ("stage1", "cri", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
MAN = "share/man/man1"
COMPLETION = {
    "bash": "share/bash-completion/completions/clearpod",
    "zsh": "share/zsh/site-functions/_clearpod",
    "fish": "share/fish/vendor_completions.d/clearpod.fish",
}
"""Shell -> its file below a prefix."""
DEBIANS = {COMPLETION["zsh"]: "share/zsh/vendor-completions/_clearpod"}
"""Where Debian's shells look instead."""
GUESTS_PACKAGES = ("linux-source-6.12", "musl-dev", "nanopb", "libseccomp-dev", "busybox-static")
"""What the guest has of Debian beside the programs in its system images and their libraries."""


class Failed(Exception):
    """Why there is no package; one sentence."""


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="scripts/build-deb", description="Makes Debian packages and a wheel.")
    parser.add_argument("--output", type=Path, default=ROOT / "build/deb", metavar="DIR", help="default: build/deb")
    parser.add_argument("--guest", type=Path, default=ROOT / "build/guest", metavar="DIR", help="the built guest")
    parser.add_argument("--version", default=_version(), help="default: the source's, with the commit behind a tag")
    args = parser.parse_args()
    os.environ.setdefault("SOURCE_DATE_EPOCH", _git("log", "-1", "--format=%ct") or "0")
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=args.output) as work:
            made = [make_wheel(Path(work), args.output)]
            made.append(_pack(_clearpod(Path(work), made[0], args.version), args.output, args.version))
            made.append(_pack(_guest(Path(work), args.guest, args.version), args.output, args.version))
    except (Failed, OSError, subprocess.CalledProcessError) as error:
        print(f"build-deb: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"build-deb: {path} ({path.stat().st_size:,} bytes)", file=sys.stderr)
    return 0


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()


def _version() -> str:
    """Of a tag the source's; of other commits one that sorts before it, since that release is still to come."""
    text = (ROOT / "cri/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    version = match[1] if match else "0"
    commit = "" if _git("describe", "--exact-match", "--tags") else _git("show", "-s", "--format=%ct.%h")
    return f"{version}~git{commit}" if commit else version


def make_wheel(work: Path, output: Path) -> Path:
    """The wheel, of a copy of the sources: setuptools would also pack what an older build left. Raises Failed."""
    copy = work / "source"
    copy.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy)
    if not (copy / "cri/pb/runtime_pb2.py").exists():
        raise Failed("cri/pb is not generated; run scripts/gen-proto")
    _add_shared(copy)
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", work / "wheel", copy]
    subprocess.run([str(word) for word in argv], check=True)
    (made,) = (work / "wheel").iterdir()
    return Path(shutil.copy(made, output))


def _add_shared(copy: Path) -> None:
    """Manual pages and completion as data files of the wheel, below the prefix where it will be installed."""
    subprocess.run([sys.executable, "-m", "tests.reference.man", copy / MAN], cwd=ROOT, check=True)
    for shell, name in COMPLETION.items():
        argv = [sys.executable, "-m", "cri", "completion", shell]
        script = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        _write(copy / name, script)
    with (copy / "setup.cfg").open("a", encoding="utf-8") as setup:
        setup.write("\n[options.data_files]\n")
        for directory in sorted({str(Path(name).parent) for name in (f"{MAN}/x", *COMPLETION.values())}):
            setup.write(f"{directory} = {directory}/*\n")


def _take_shared(tree: Path, site: Path) -> None:
    """Move them from the unpacked wheel to where Debian has them, compressed as its policy wants it."""
    (data,) = site.glob("*.data")
    for name in (MAN, *COMPLETION.values()):
        target = tree / "usr" / DEBIANS.get(name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        (data / "data" / name).rename(target)
    shutil.rmtree(data)
    for page in (tree / "usr" / MAN).iterdir():
        page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), 9, mtime=0))
        page.unlink()


def _clearpod(work: Path, wheel: Path, version: str) -> Path:
    """The tree of `clearpod`."""
    tree = work / "clearpod"
    site = tree / HOME / "lib" / PYTHON / "site-packages"
    site.mkdir(parents=True)
    shutil.unpack_archive(wheel, site, "zip")
    _take_shared(tree, site)
    (distribution,) = importlib.metadata.distributions(path=[str(site)])
    ours = [_copy_distribution(one, site) for one in sorted(_closure(distribution.requires or []))]
    _write(tree / HOME / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    _write(tree / HOME / "bin/clearpod", (HERE / "clearpod.program").read_text(), mode=0o755)
    (tree / HOME / "bin/python3").symlink_to(f"/usr/bin/{PYTHON}")
    _write(tree / HOME / "remove-pods", (HERE / "remove_pods.py").read_text(), mode=0o755)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/clearpod").symlink_to("../lib/clearpod/bin/clearpod")
    _write(tree / "usr/lib/systemd/system/clearpod.service", _unit())
    _add_pages(tree / "usr/share/doc/clearpod")
    _write(tree / "usr/share/doc/clearpod/copyright", (HERE / "clearpod.copyright").read_text() + "".join(ours))
    _document(tree, "clearpod", version)
    _control(tree, "clearpod", version)
    for script in ("postinst", "prerm", "postrm"):
        _write(tree / "DEBIAN" / script, (HERE / f"clearpod.{script}").read_text(), mode=0o755)
    return tree


def _unit() -> str:
    """The unit, with the paths of the package."""
    text = (ROOT / "docs/admin/clearpod.service").read_text(encoding="utf-8")
    text = text.replace("# For /etc/systemd/system. docs", "# docs")
    text = text.replace("file:///opt/clearpod/docs/", "man:clearpod(1) file:///usr/share/doc/clearpod/")
    return text.replace("/opt/clearpod/.venv/bin/", "/usr/bin/")


def _add_pages(place: Path) -> None:
    """All pages, and what a node begins with: a configuration and the RuntimeClass."""
    shutil.copytree(ROOT / "docs", place, dirs_exist_ok=True)
    (place / "examples").mkdir()
    shutil.copy(ROOT / "docs/reference/config.example.toml", place / "examples/config.toml")
    shutil.copy(ROOT / "docs/admin/kubernetes/runtimeclass.yaml", place / "examples")


def _closure(requirements: list[str]) -> set[str]:
    """The distributions that are needed to run what has these requirements."""
    known: set[str] = set()
    waiting = [*requirements]
    while waiting:
        needed = Requirement(waiting.pop())
        if needed.name not in known and (not needed.marker or needed.marker.evaluate({"extra": ""})):
            known.add(needed.name)
            waiting += importlib.metadata.requires(needed.name) or []
    return known


def _copy_distribution(name: str, site: Path) -> str:
    """Put its files there; a paragraph for the file `copyright`."""
    distribution = importlib.metadata.distribution(name)
    files = [path for path in distribution.files or [] if ".." not in path.parts and "__pycache__" not in path.parts]
    for path in files:
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(path.locate()), target)
        if target.suffix == ".so":
            subprocess.run(["strip", "--strip-unneeded", target], check=True)
    about = distribution.metadata.json
    licence = str(about.get("license_expression") or about.get("license") or "see its files")
    texts = [path for path in files if re.search(r"licen[cs]e|copying|notice", path.name, re.IGNORECASE)]
    home = f"/{HOME}/lib/{PYTHON}/site-packages"
    where = "\n".join(f"  {home}/{path}" for path in texts) or f"  {home}/{distribution.name}"
    return f"\n{distribution.name} {distribution.version}, from PyPI; {licence.splitlines()[0]}:\n{where}\n"


def _guest(work: Path, guest: Path, version: str) -> Path:
    """The tree of `clearpod-guest`."""
    manifest = guest / "manifest.json"
    if not manifest.exists():
        raise Failed(f"there is no guest in {guest}; run images/build")
    tree = work / "clearpod-guest"
    place, documents = tree / HOME / "guest", tree / "usr/share/doc/clearpod-guest"
    place.mkdir(parents=True)
    files = [name for name in json.loads(manifest.read_text())["files"] if not name.endswith(".aci")]
    for name in ("manifest.json", "kernel.release", *files):
        if (guest / name).is_dir():
            shutil.copytree(guest / name, place / name)
        elif name != "launcher":
            shutil.copy(guest / name, place / name)
    parts = _parts_of_debian()
    for name in parts:
        target = documents / "licences" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"/usr/share/doc/{name}/copyright", target)
    shutil.copytree(ROOT / "images/kernel", documents / "kernel", ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    lines = "".join(f"  {name} {version} (source {source})\n" for name, (version, source) in sorted(parts.items()))
    _write(documents / "copyright", (HERE / "clearpod-guest.copyright").read_text().replace("@PARTS@", lines.rstrip()))
    _document(tree, "clearpod-guest", version)
    _control(tree, "clearpod-guest", version)
    return tree


def _parts_of_debian() -> dict[str, tuple[str, str]]:
    """Debian's packages that the guest's files come from, with their versions and sources."""
    sys.path.insert(0, str(HERE.parent))
    from lib import elf

    programs = [path for path in map(Path, ("/usr/bin/crun", "/usr/lib/systemd/systemd")) if path.exists()]
    names = {*map(str, programs), *(f"*/x86_64-linux-gnu/*{path.name}" for path in elf.libraries(programs))}
    owners = subprocess.run(["dpkg-query", "-S", *sorted(names)], stdout=subprocess.PIPE, text=True, check=True).stdout
    listed = {re.split("[:,]", line)[0] for line in owners.splitlines() if not line.startswith("diversion")}
    form = "${Package}\t${Version}\t${source:Package} ${source:Version}\n"
    packages = sorted({*listed, *GUESTS_PACKAGES})
    shown = subprocess.run(["dpkg-query", "-W", f"-f={form}", *packages], stdout=subprocess.PIPE, text=True, check=True)
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    return {name: (version, source) for name, version, source in rows if os.path.exists(f"/usr/share/doc/{name}")}


def _document(tree: Path, name: str, version: str) -> None:
    """The changelog in Debian's form, and why lintian is told to accept some things."""
    date = formatdate(int(os.environ["SOURCE_DATE_EPOCH"]))
    entry = f"{name} ({version}) trixie; urgency=medium\n\n  * See CHANGELOG.md of the source.\n\n"
    text = f"{entry} -- {_maintainer()}  {date}\n".encode()
    (tree / f"usr/share/doc/{name}").mkdir(parents=True, exist_ok=True)
    (tree / f"usr/share/doc/{name}/changelog.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    _write(tree / f"usr/share/lintian/overrides/{name}", (HERE / f"{name}.lintian").read_text())


def _maintainer() -> str:
    match = re.search("^Maintainer: (.*)$", (HERE / "clearpod.control").read_text(), re.MULTILINE)
    assert match
    return match[1]


def _control(tree: Path, name: str, version: str) -> None:
    """DEBIAN/control and md5sums, last of all: they speak of every other file."""
    _fix_modes(tree)
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    kib = sum(-(-path.stat().st_size // 1024) for path in files)
    values = {"VERSION": version, "SIZE": str(kib), "PYTHON": PYTHON.removeprefix("python"), "NEXT": NEXT}
    text = re.sub("@([A-Z]+)@", lambda match: values[match[1]], (HERE / f"{name}.control").read_text())
    sums = subprocess.run(
        ["md5sum", *(str(path.relative_to(tree)) for path in files)],
        cwd=tree, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    _write(tree / "DEBIAN/control", text)
    _write(tree / "DEBIAN/md5sums", sums.stdout)


def _fix_modes(tree: Path) -> None:
    """Whatever the umask was."""
    for path in tree.rglob("*"):
        if not path.is_symlink():
            is_program = os.access(path, os.X_OK) and "site-packages" not in path.parts
            path.chmod(0o755 if path.is_dir() or is_program else 0o644)


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _pack(tree: Path, output: Path, version: str) -> Path:
    """The package: quickly made rather than small, or compressed as dpkg-deb's own variable says."""
    made = output / f"{tree.name}_{version}_amd64.deb"
    compression = () if "DPKG_DEB_COMPRESSOR_TYPE" in os.environ else ("-Zxz", "-z1")
    argv = ["dpkg-deb", "--root-owner-group", *compression, "--build", tree, made]
    subprocess.run([str(word) for word in argv], check=True, stdout=subprocess.DEVNULL)
    return made


if __name__ == "__main__":
    sys.exit(main())
