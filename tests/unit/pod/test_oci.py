# SPDX-License-Identifier: Apache-2.0
"""The OCI documents."""

import json

import pytest

from stage1.errors import BadRequest, Unsupported
from stage1.pod import capabilities, devices, files, oci
from stage1.pod.model import Container, Device, IdMap, Limits, Mount, Pod, Process, Security, User

POD = Pod(id="ab" * 32, name="web", hostname="web-0")


def container(**changes):
    base = Container(id="c1", name="main", image="sha256:" + "00" * 32, process=Process(argv=("sh",)))
    return base._replace(**changes)


def mounts_of(document):
    return {mount["destination"]: mount for mount in document["mounts"]}


def test_the_document_is_json_and_points_to_the_guests_paths():
    document = json.loads(json.dumps(oci.config(POD, container())))
    assert document["root"] == {"path": "/run/clearpod/containers/c1/rootfs", "readonly": False}
    assert document["linux"]["cgroupsPath"] == "/clearpod/c1"
    assert mounts_of(document)["/etc/resolv.conf"]["source"] == "/run/clearpod/volumes/pod/resolv.conf"


def test_a_pod_in_a_vm_is_a_machine_of_its_own():
    assert mounts_of(oci.config(POD, container()))["/etc/machine-id"]["source"].endswith("/volumes/pod/machine-id")
    own = container(mounts=(Mount("/x", "/etc/machine-id"),))
    assert mounts_of(oci.config(POD, own))["/etc/machine-id"]["source"].endswith("/mounts/0")
    assert "/etc/machine-id" not in mounts_of(oci.config(POD._replace(host=("pid",)), container()))
    for pod_id in ("6733C088-A507-4694-AABF-EDBE4FC5266F".lower(), "6733c088a5074694aabfedbe4fc5266f" * 2):
        assert files.machine_id(POD._replace(id=pod_id)) == "6733c088a5074694aabfedbe4fc5266f\n"


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("pod", {"type": "pid", "path": "/run/clearpod/pause.pid-ns"}),
        ("container", {"type": "pid"}),
        ("node", None),
        ("target:abc", {"type": "pid", "path": "/proc/42/ns/pid"}),
    ],
)
def test_pid_namespace_modes(mode, expected):
    document = oci.config(POD, container(security=Security(pid_namespace=mode)), target_pid=42)
    spaces = [space for space in document["linux"]["namespaces"] if space["type"] == "pid"]
    assert spaces == ([expected] if expected else [])


def test_a_volume_over_a_pods_own_file_replaces_it():
    document = oci.config(POD, container(mounts=(Mount("/tmp/hosts", "/etc/hosts"),)))
    sources = [m["source"] for m in document["mounts"] if m["destination"] == "/etc/hosts"]
    assert sources == ["/run/clearpod/volumes/containers/c1/mounts/0"]


def test_a_volume_inside_the_guest_is_the_root_of_what_is_named_and_read_only_there():
    mounts = tuple(Mount("/host", f"/{n}", read_only=n == 1, inside="v.volume") for n in (1, 2))
    result = mounts_of(oci.config(POD, container(mounts=mounts)))
    assert {result[f"/{n}"]["source"] for n in (1, 2)} == {"/run/clearpod/containers/v.volume/rootfs"}
    assert [("ro" in result[f"/{n}"]["options"]) for n in (1, 2)] == [True, False]


def test_shorter_targets_are_mounted_first_and_keep_their_number():
    document = oci.config(POD, container(mounts=(Mount("/a", "/data/inner"), Mount("/b", "/data"))))
    ordered = [(m["destination"], m["source"][-1]) for m in document["mounts"] if m["destination"].startswith("/data")]
    assert ordered == [("/data", "1"), ("/data/inner", "0")]


def test_a_volume_at_dev_takes_the_place_of_the_usual_one_and_has_the_devices():
    volumes = (Mount("/host/a", "/data"), Mount("/host/dev", "/dev"), Mount("/host/shm", "/dev/shm"))
    mounts = oci.config(Pod("id", "pod"), container(mounts=volumes))["mounts"]
    targets = [mount["destination"] for mount in mounts]
    assert targets.count("/dev") == 1 and mounts[targets.index("/dev")]["source"].endswith("/mounts/1")
    below = [target for target in targets if target.startswith("/dev/")]
    assert {"/dev/null", "/dev/urandom", "/dev/tty", "/dev/pts"} <= set(below)
    assert min(targets.index(target) for target in below) > targets.index("/dev")
    assert targets.index("/data") > targets.index("/sys"), "the others stay last"


def test_only_requested_limits_are_set():
    assert oci.resources(Limits()) == {}
    assert oci.resources(Limits(memory=1 << 20, cpu_quota_us=5000, pids=9)) == {
        "memory": {"limit": 1 << 20},
        "cpu": {"quota": 5000},
        "pids": {"limit": 9},
    }


def test_an_exec_gets_the_confinement_of_its_container():
    confined = container(security=Security(no_new_privs=True, drop_capabilities=("CAP_ALL",)))
    document = oci.process(POD, confined, what=Process(argv=("id",), user=User(5, 6, (7,))))
    assert document["noNewPrivileges"] is True
    assert document["capabilities"]["bounding"] == []
    assert document["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}


@pytest.mark.parametrize(
    "env, tty, expected",
    [
        ((), False, [oci.PATH, "HOSTNAME=web-0"]),
        (("PATH=/x",), True, ["HOSTNAME=web-0", "TERM=xterm", "PATH=/x"]),
        (("TERM=vt100", "A="), True, [oci.PATH, "HOSTNAME=web-0", "TERM=vt100", "A="]),
    ],
)
def test_what_every_container_expects_is_added_unless_given(env, tty, expected):
    assert oci.environment(POD, Process(argv=("sh",), env=env, tty=tty)) == expected


@pytest.mark.parametrize(
    "add, drop, has, has_not",
    [
        ((), (), "CAP_CHOWN", "CAP_SYS_ADMIN"),
        (("CAP_SYS_ADMIN",), (), "CAP_SYS_ADMIN", "CAP_BPF"),
        ((), ("CAP_CHOWN",), "CAP_KILL", "CAP_CHOWN"),
        (("CAP_ALL",), ("CAP_BPF",), "CAP_SYS_ADMIN", "CAP_BPF"),
        (("CAP_KILL",), ("CAP_ALL",), "CAP_KILL", "CAP_CHOWN"),
        (("CAP_ALL",), ("CAP_ALL",), "CAP_BPF", "CAP_NONE"),
    ],
)
def test_capabilities_are_added_and_dropped(add, drop, has, has_not):
    held = capabilities.bounding(add, drop)
    assert has in held and has_not not in held


def test_dropping_all_leaves_none():
    assert capabilities.bounding((), ("CAP_ALL",)) == ()


def test_an_unknown_capability_is_refused():
    with pytest.raises(BadRequest, match=r"'CAP_FLY' .*capability"):
        capabilities.bounding(("CAP_FLY",), ())


def test_a_privileged_container_has_everything_writable():
    document = oci.config(POD, container(security=Security(privileged=True)))
    assert "rw" in mounts_of(document)["/sys"]["options"]
    assert document["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert {"type": "cgroup"} not in document["linux"]["namespaces"]
    assert "/dev/fuse" in [node["path"] for node in document["linux"]["devices"]]


@pytest.mark.parametrize(
    "names, expected",
    [((), ()), (("CAP_KILL", "CAP_CHOWN"), ("CAP_CHOWN", "CAP_KILL")), (("CAP_ALL",), capabilities.ALL)],
)
def test_ambient_capabilities_are_in_the_kernels_order(names, expected):
    assert capabilities.ambient(names) == expected


def test_what_is_to_be_ambient_is_held_too():
    raised = Security(ambient_capabilities=("CAP_SYS_TIME",), drop_capabilities=("CAP_ALL",))
    sets = oci.process(POD, container(security=raised), what=Process(("sh",)))["capabilities"]
    assert all(held == ["CAP_SYS_TIME"] for held in sets.values())


@pytest.mark.parametrize(
    "source, expected",
    [("", "/run/clearpod/layers/" + "11" * 32), ("etc/a", "/run/clearpod/layers/" + "11" * 32 + "/etc/a")],
)
def test_an_image_volume_is_a_read_only_bind_of_the_layers_share(source, expected):
    volume = Mount(source, "/i", read_only=True, image="sha256:" + "11" * 32)
    document = oci.config(POD, container(mounts=(Mount("/a", "/b"), volume)))
    result = mounts_of(document)
    assert (result["/i"]["source"], result["/i"]["options"]) == (expected, ["rbind", "ro"])
    assert result["/b"]["source"].endswith("/mounts/0")


def test_a_device_is_made_and_allowed_as_requested():
    document = oci.config(
        POD, container(devices=(Device("/dev/fuse", "/dev/mine", "rw"), Device("/dev/null", "/dev/null")))
    )
    (node,) = document["linux"]["devices"]
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/mine", "c", 10, 229)
    assert document["linux"]["resources"]["devices"][:2] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ]


@pytest.mark.parametrize(
    "source, path, access, error",
    [
        ("/dev/sda", "", "", Unsupported),
        ("/dev/vda", "/dev/fuse", "r", Unsupported),
        ("/dev/../dev/fuse", "", "", Unsupported),
        ("/dev/fuse", "fuse", "", BadRequest),
        ("/dev/fuse", "", "rx", BadRequest),
    ],
)
def test_devices_that_the_guest_does_not_have_are_refused(source, path, access, error):
    with pytest.raises(error, match="device"):
        devices.device(source, path, access=access)


def test_a_device_is_by_default_at_its_own_place_with_every_right():
    assert devices.device("/dev/fuse", "", access="") == Device("/dev/fuse", "/dev/fuse", "rwm")


def test_a_pod_with_a_user_namespace_shares_all_that_belongs_to_it():
    pod = POD._replace(ids=IdMap(1000, 65536))
    for privileged in (False, True):
        document = oci.config(pod, container(security=Security(privileged=privileged)))
        spaces = {space["type"]: space.get("path") for space in document["linux"]["namespaces"]}
        assert spaces == {
            "mount": None,
            "cgroup": None,
            "user": "/run/clearpod/pause.user-ns",
            "network": "/run/clearpod/pause.net-ns",
            "ipc": "/run/clearpod/pause.ipc-ns",
            "uts": "/run/clearpod/pause.uts-ns",
            "pid": "/run/clearpod/pause.pid-ns",
        }


def test_a_terminal_has_its_size_before_its_program_starts():
    def size(**changes):
        return oci.config(POD, container(process=Process(("sh",), **changes)))["process"].get("consoleSize")

    assert size(tty=True) == {"width": 80, "height": 24} and size(tty=True, size=(100, 25))["width"] == 100
    assert size() is None


def test_an_environment_can_be_just_what_was_given():
    process = Process(argv=("sh",), env=("A=b",), tty=True, only_env=True)
    assert oci.environment(POD, process) == ["A=b"]


def test_only_the_requested_files_of_the_pod_are_there():
    asked = container(pod_files=("hostname",), mounts=(Mount("/v", "/etc/hosts"),))
    places = [place for place in mounts_of(oci.config(POD, asked)) if place.startswith("/etc/")]
    assert places == ["/etc/hostname", "/etc/hosts"]


@pytest.mark.parametrize("over, place", [((), 0), (("hosts",), 1)])
def test_a_file_of_the_pods_own_can_be_over_a_volume_of_the_whole_etc(over, place):
    asked = container(pod_files=("hosts",), files_over=over, mounts=(Mount("/v", "/etc"),))
    places = [place for place in mounts_of(oci.config(POD, asked)) if place.startswith("/etc")]
    assert places.index("/etc/hosts") == place


@pytest.mark.parametrize("writable", [True, False])
def test_sys_can_be_writable_without_any_other_privilege(writable):
    document = oci.config(POD, container(security=Security(writable_sys=writable)))
    expected = "rw" if writable else "ro"
    assert expected in mounts_of(document)["/sys"]["options"]
    assert document["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert document == oci.config(POD, container()) or writable
