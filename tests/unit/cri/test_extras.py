# SPDX-License-Identifier: Apache-2.0
"""tmpfs, ulimits and lines of /etc/hosts by annotation: from the text to the document that crun reads."""

import pytest

from cri.translate import extras
from stage1.errors import BadRequest
from stage1.pod import files, oci
from stage1.pod.model import UNLIMITED, Container, HostName, Pod, Process, Rlimit, Tmpfs

POD = Pod("p", "p", hostname="box")


def test_they_are_in_the_containers_document() -> None:
    container = Container(
        "c",
        "c",
        "sha256:0",
        Process(("x",)),
        tmpfs=extras.tmpfs({extras.TMPFS: "/a/b:size=4m,noexec;/a"}),
        rlimits=extras.rlimits({extras.ULIMITS: "core=0,nproc=5:unlimited"}),
    )
    document = oci.config(POD, container)
    mounts = [(one["destination"], one["options"]) for one in document["mounts"] if one["destination"].startswith("/a")]
    assert mounts == [("/a", ["nosuid", "nodev"]), ("/a/b", ["nosuid", "nodev", "size=4m", "noexec"])]
    limits = {one["type"]: (one["soft"], one["hard"]) for one in document["process"]["rlimits"]}
    assert limits["RLIMIT_CORE"] == (0, 0) and limits["RLIMIT_NPROC"] == (5, UNLIMITED)
    assert limits["RLIMIT_NOFILE"] == (oci.OPEN_FILES, oci.OPEN_FILES)
    executed = oci.process(POD, container, what=Process(("y",)))
    assert executed["rlimits"] == document["process"]["rlimits"]


def test_given_files_replace_the_usual_number() -> None:
    container = Container("c", "c", "i", Process(("x",)), rlimits=(Rlimit("RLIMIT_NOFILE", 5, 6),))
    assert oci.config(POD, container)["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]


def test_hosts_come_last() -> None:
    given = extras.hosts({extras.HOSTS: "db:10.0.0.5,six:fd00::5"})
    assert given == (HostName("db", "10.0.0.5"), HostName("six", "fd00::5"))
    assert files.hosts(POD._replace(hosts=given), ("10.1.1.1",)).splitlines()[-3:] == [
        "10.1.1.1\tbox",
        "10.0.0.5\tdb",
        "fd00::5\tsix",
    ]


def test_nothing_is_nothing() -> None:
    assert (extras.tmpfs({}), extras.rlimits({extras.ULIMITS: ""}), extras.hosts({})) == ((), (), ())
    assert extras.tmpfs_of("/x") == Tmpfs("/x")


@pytest.mark.parametrize(
    "name, text",
    [
        (extras.TMPFS, "/x:bind"),
        (extras.TMPFS, "/x:size=4m,upperdir=/"),
        (extras.TMPFS, "/"),
        (extras.TMPFS, "x"),
        (extras.TMPFS, ";".join(f"/{number}" for number in range(33))),
        (extras.ULIMITS, "nofile=1,nproc=-2"),
        (extras.ULIMITS, "NOFILE=1"),
        (extras.ULIMITS, "core=-1:5"),
        (extras.ULIMITS, "core=1234567890123456789"),
        (extras.HOSTS, "a b:10.0.0.1"),
        (extras.HOSTS, "a:10.0.0.1\n6.6.6.6 b"),
        (extras.HOSTS, ":10.0.0.1"),
    ],
)
def test_what_is_not_one_is_refused(name: str, text: str) -> None:
    with pytest.raises(BadRequest):
        (*extras.tmpfs({name: text}), *extras.rlimits({name: text}), *extras.hosts({name: text}))
