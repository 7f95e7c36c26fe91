# SPDX-License-Identifier: Apache-2.0
"""Who a container runs as."""

import pytest

from stage1.errors import BadRequest
from stage1.pod.model import User
from stage1.pod.users import resolve, with_home

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
www-data:x:33:33:www:/var/www:/bin/false
default-user:x:1000:1000::/home/default-user:/bin/sh
broken:x:not-a-number:1::/:/bin/sh
short:x
"""
GROUP = """root:x:0:
www-data:x:33:
group-defined-in-image:x:50000:default-user
video:x:44:root,default-user
"""


@pytest.mark.parametrize(
    "user, expected",
    [
        ("", User(0, 0, (44,))),
        ("root", User(0, 0, (44,))),
        ("1002", User(1002, 0)),
        ("1003:1004", User(1003, 1004)),
        ("www-data", User(33, 33)),
        ("www-data:1004", User(33, 1004)),
        ("1000", User(1000, 1000, (50000, 44))),
        ("default-user:video", User(1000, 44)),
    ],
)
def test_names_and_numbers_are_resolved_in_the_images_own_files(user, expected):
    assert resolve(user, passwd=PASSWD, group=GROUP) == expected


@pytest.mark.parametrize(
    "user, sentence",
    [
        ("nobody", "user 'nobody' .*/etc/passwd"),
        ("broken", "user 'broken'"),
        ("short", "user 'short'"),
        ("root:nogroup", "group 'nogroup' .*/etc/group"),
        ("4294967296", "out of range"),
        ("1:99999999999", "out of range"),
        ("9" * 5000, "out of range"),
        ("-1", "user '-1'"),
        ("²", "user '²'"),
    ],
)
def test_what_cannot_be_resolved_is_refused_with_one_sentence(user, sentence):
    with pytest.raises(BadRequest, match=sentence):
        resolve(user, passwd=PASSWD, group=GROUP)


def test_strict_policy_takes_only_the_groups_of_the_request():
    assert resolve("1000", passwd=PASSWD, group=GROUP, extra=(7,), merge=False) == User(1000, 1000, (7,))


def test_merge_policy_adds_the_groups_of_the_request_without_doubles():
    assert resolve("1000", passwd=PASSWD, group=GROUP, extra=(44, 7, 1000)) == User(1000, 1000, (50000, 44, 7))


def test_an_image_without_passwd_runs_numbers():
    assert resolve("12", passwd="", group="") == User(12, 0)


def test_a_number_of_thousands_of_digits_in_a_passwd_is_refused():
    with pytest.raises(BadRequest, match="out of range"):
        resolve("big", passwd=f"big:x:{'9' * 5000}:0::/:/bin/sh\n", group="")


@pytest.mark.parametrize(
    ("env", "uid", "passwd", "home"),
    [
        ((), 0, "", "/"),
        (("A=b",), 0, "root:x:0:0:root:/root:/bin/sh\n", "/root"),
        ((), 5, "root:x:0:0:root:/root:/bin/sh\n", "/"),
        ((), 5, "a:x:5:5::relative:/bin/sh\n", "/"),
        ((), 5, "a:x:5:5::/zero\0byte:/bin/sh\n", "/"),
        ((), 5, f"a:x:5:5::/{'x' * 5000}:/bin/sh\n", "/"),
        ((), 5, "a:x:5:5\n", "/"),
        (("HOME=/mine",), 0, "root:x:0:0:root:/root:/bin/sh\n", "/mine"),
    ],
)
def test_home_is_always_given_so_that_nothing_in_the_guest_looks_it_up(env, uid, passwd, home):
    result = with_home(env, User(uid, 0), passwd=passwd)
    assert [entry for entry in result if entry.startswith("HOME=")] == [f"HOME={home}"]
    assert set(env) <= set(result)
