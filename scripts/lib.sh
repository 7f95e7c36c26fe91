# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What scripts/test, run and lint share: packages from Debian, the Python environment, the generated code, the
# guest. Sourced, never run. Every step is silent when there is nothing to do and says what it installs.
# shellcheck disable=SC2034  # the lists are used by those who source this

# To build the guest with Debian's kernel, and to run pods.
POD_PACKAGES=(
    ca-certificates python3-venv                              # the Python environment
    xz-utils zstd kmod binutils                               # the guest's kernel, which is Debian's
    gcc libc6-dev make musl-tools nanopb libnanopb-dev        # the agent, PID 1 of the guest
    libseccomp-dev                                            # the filters for the VMMs
    busybox-static crun erofs-utils e2fsprogs                 # the guest's system image, the sample image
    qemu-system-x86 skopeo isal iproute2 containernetworking-plugins iptables kmod   # at run time
)
# To build the guest's own kernel too.
RUN_PACKAGES=("${POD_PACKAGES[@]}" flex bison bc libelf-dev perl cpio linux-source-6.12 lz4)
# To test, beyond that: the guest's profile with systemd, a registry on the loopback address, linters, sanitizers and the
# fuzzer, the lab, sources, callgrind.
TEST_PACKAGES=(systemd git bzip2 docker-registry shellcheck codespell clang-19 clang-format-19 libclang-rt-19-dev virtiofsd debootstrap mmdebstrap valgrind)

# Which Python .venv is made of: PYTHON=python3.11 scripts/test. What is started from here uses that of .venv.
BASE_PYTHON=${PYTHON:-/usr/bin/python3}
unset PYTHON

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Prints what opens the script for who asks for help. Goes to the root of the checkout, and starts over as root when it is
# not: mounts, namespaces and taps need it.
enter() {
    local self
    self=$(readlink -f "$0")
    case "${1:-}" in -h | --help) sed -n '3,/^[^#]/s/^# \{0,1\}//p' "$self"; exit 0 ;; esac
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "needs root, and there is no sudo"; exit 1; }
        say "needs root, asking sudo"
        export PYTHON=$BASE_PYTHON
        exec sudo --preserve-env=CI,CLEARPOD_CACHE,CLEARPOD_GUEST_DIR,CLEARPOD_LAB_PATH,PYTHON,RESULTS "$self" "$@"
    fi
    cd "$(dirname "$self")/.." || exit
}

# need_packages NAME...: installs what is missing from Debian.
need_packages() {
    local missing
    missing=$(comm -13 <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null |
        sed -n 's/^installed //p' | sort -u) <(printf '%s\n' "$@" | sort -u) | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || { say "not Debian: please install what these packages hold: $missing"; return 0; }
    say "installing from Debian: $missing"
    apt_get update
    # shellcheck disable=SC2086  # a list of words
    apt_get install --no-install-recommends $missing
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@" \
        </dev/null >build/apt.log 2>&1 || { cat build/apt.log >&2; say "apt-get $1 failed"; return 1; }
}

# need_venv EXTRA...: makes .venv anew when setup.cfg (or what else decides its content) changed, brings in the extras of
# setup.cfg that it lacks, and compiles our own modules: where PYTHONDONTWRITEBYTECODE is set, nobody else would, and
# every start would pay for it.
need_venv() {
    local python want extra lacking=() pip=(.venv/bin/pip install -q --disable-pip-version-check)
    python=$(command -v "$BASE_PYTHON") || { say "there is no $BASE_PYTHON"; return 1; }
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "$python is older than 3.11"; return 1; }
    want=$({ echo "$PWD"; "$python" --version; cat setup.cfg pyproject.toml tests/contract/peers.txt; } | sha256sum)
    for extra; do
        [ "$(cat ".venv/.has-$extra" 2>/dev/null)" = "$want" ] || lacking+=("$extra")
    done
    if [ ${#lacking[@]} -gt 0 ]; then
        say "making .venv: clearpod[$(IFS=,; echo "${lacking[*]}")] and what it depends on, from PyPI"
        [ "$(cat .venv/.made-from 2>/dev/null)" = "$want" ] || "$python" -m venv --clear .venv
        "${pip[@]}" -e ".[$(IFS=,; echo "${lacking[*]}")]"
        # A ^C while Python itself begins shall be no traceback: docs/decisions/0331-shells-complete-by-shtab.md
        sed -i '1{/env -S/!s|^#!\(/.*\)$|#!/usr/bin/env -S --block-signal=INT \1|}' .venv/bin/clearpod
        case " ${lacking[*]} " in *" test "*) "${pip[@]}" --no-deps -r tests/contract/peers.txt ;; esac
        for extra in made-from "${lacking[@]/#/has-}"; do echo "$want" > ".venv/.$extra"; done
    fi
    scripts/gen-proto >&2
    .venv/bin/python -m compileall -q stage1 cri
}

# Waits until no other script prepares this checkout.
take_lock() {
    mkdir -p build
    exec {LOCK}> build/prepare.lock
    flock --nonblock "$LOCK" || { say "waiting for another script that prepares this checkout"; flock "$LOCK"; }
}

# Lets the next script prepare the checkout, and gives the owner of the checkout what root has made in it, since with sudo that is who goes on.
release_lock() {
    local owner
    owner=$(stat -c %u:%g .)
    [ "${owner%:*}" = 0 ] || chown -R -h --from=0 "$owner" .
    exec {LOCK}>&-
}

# need_all PACKAGE...: everything that tests need before they can do their own work.
need_all() {
    take_lock
    need_packages "$@"
    need_venv build test lint
    images/build all
    release_lock
}

# need_pods PACKAGE...: what measurements of pods need, which is less: a pod's parts of the guest, and no linters.
need_pods() {
    take_lock
    need_packages "$@"
    need_venv build test
    images/build pod
    release_lock
}
