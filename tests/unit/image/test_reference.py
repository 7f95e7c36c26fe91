# SPDX-License-Identifier: Apache-2.0
"""Image names, by docker's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.store.reference import Reference, parse, registry_of
from stage1.errors import BadRequest

D = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b:c", "docker.io/a/b:c"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("registry.k8s.io/pause", "registry.k8s.io/pause:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a:b", "localhost:5000/a:b"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("HOST.x/a", "HOST.x/a:latest"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
        ("a:UPPER_tag.1", "docker.io/library/a:UPPER_tag.1"),
        (f"a@{D}", f"docker.io/library/a@{D}"),
        (f"x.io/a:tag@{D}", f"x.io/a@{D}"),
        ("host:5000", "docker.io/library/host:5000"),
        ("a" * 240, None),
    ],
)
def test_a_name_is_completed_as_docker_does(text: str, full: str | None) -> None:
    if full is None:
        with pytest.raises(BadRequest, match="longer than 255"):
            parse(text)
    else:
        assert str(parse(text)) == full


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "image name"),
        ("/a", "image name"),
        ("a/", "image name"),
        ("a//b", "image name"),
        ("Busybox", "names are lowercase"),
        ("UPPER/case", "names are lowercase"),
        ("x.io:0/a", "registry's host"),
        ("x.io:65536/a", "registry's host"),
        ("a b", "image name"),
        ("-a", "image name"),
        ("a-", "image name"),
        ("a...b", "image name"),
        ("a___b", "image name"),
        ("../../etc", "registry's host"),
        ("x.io/", "image name"),
        (".x/a", "registry's host"),
        ("x.io:port/a", "registry's host"),
        ("a:", "a tag"),
        ("a:-x", "a tag"),
        ("a:b:c", "a tag"),
        ("a:" + "t" * 129, "a tag"),
        ("a@", "not a digest"),
        ("a@sha256:xyz", "not a digest"),
        ("a@md5:" + "0" * 32, "not a digest"),
        (f"a@{D}0", "not a digest"),
        ("ab" * 32, "image id"),
        ("бox", "image name"),
        ("a\n", "image name"),
        ("a:b\n", "a tag"),
        ("--flag", "image name"),
        ("x.io/a?b", "image name"),
        ("q" * 5000, "longer than 255"),
    ],
)
def test_what_is_no_name_is_refused_with_a_short_reason(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        parse(text)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=40) | st.from_regex(r"[a-z.:/@-]{1,30}", fullmatch=True))
def test_any_text_is_refused_or_stable(text: str) -> None:
    try:
        once = parse(text)
    except BadRequest:
        return
    assert parse(str(once)) == once
    assert isinstance(once, Reference)
    assert bool(once.tag) != bool(once.digest)
    assert not str(once).startswith("-")
    assert not set(str(once)) & set(" \t\n'\"\\")


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("x.io", "x.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://x.io/", "x.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("x.io/team/app", "x.io/team/app"),
        ("", None),
        ("a b", None),
        ("x.io/Team", None),
        ("x.io:99999", None),
    ],
)
def test_the_registry_of_a_login(text: str, registry: str | None) -> None:
    if registry is None:
        with pytest.raises(BadRequest, match="registry"):
            registry_of(text)
    else:
        assert registry_of(text) == registry
