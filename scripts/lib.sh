# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What scripts/test, run and lint share: packages from Debian, the Python environment, the generated code, the
# guest. Sourced, never run. Every step is silent when there is nothing to do and says what it installs.
# shellcheck disable=SC2034  # the lists are used by those who source this

# To build the guest with Debian's kernel, and to run pods.
POD_PACKAGES=(
    ca-certificates python3-venv                              # the Python environment
    xz-utils zstd kmod binutils apparmor                      # the guest's kernel, which is Debian's
    gcc libc6-dev make musl-tools nanopb libnanopb-dev        # the agent, PID 1 of the guest
    libseccomp-dev                                            # the filters for the VMMs
    busybox-static crun erofs-utils e2fsprogs                 # the guest's system image, the sample image
    qemu-system-x86 isal iproute2 containernetworking-plugins iptables kmod   # at run time
)
# To build the guest's own kernel too.
RUN_PACKAGES=("${POD_PACKAGES[@]}" flex bison bc libelf-dev perl cpio linux-source-6.12 lz4)
# For the tests that every change must pass: a registry on the loopback address, linters.
TEST_PACKAGES=(git docker-registry skopeo shellcheck codespell clang-format-19)
# For all others: the guest's profile with systemd, sanitizers and the fuzzer, the lab, sources, callgrind.
ALL_PACKAGES=(systemd bzip2 clang-19 libclang-rt-19-dev virtiofsd debootstrap mmdebstrap valgrind)

# Which Python .venv is made of: PYTHON=python3.11 scripts/test. What is started from here uses that of .venv.
BASE_PYTHON=${PYTHON:-/usr/bin/python3}
unset PYTHON

# What sudo shall keep of the environment: our own settings, and those of proxies and of pip.
KEPT=CI,CLEARPOD_CACHE,CLEARPOD_GUEST_DIR,CLEARPOD_LAB_PATH,PYTHON,RESULTS
KEPT+=,http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY
KEPT+=,PIP_CERT,PIP_CONFIG_FILE,PIP_EXTRA_INDEX_URL,PIP_FIND_LINKS,PIP_INDEX_URL,REQUESTS_CA_BUNDLE,SSL_CERT_FILE

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Prints what opens the script for who asks for help. Goes to the root of the checkout, and starts over as root when it is
# not: mounts, namespaces and taps need it.
enter() {
    local self
    self=$(readlink -f "$0")
    case "${1:-}" in -h | --help) sed -n '3,/^[^#]/s/^# \{0,1\}//p' "$self"; exit 0 ;; esac
    need_debian /etc/os-release
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { say "needs root, and there is no sudo"; exit 1; }
        say "needs root, asking sudo"
        export PYTHON=$BASE_PYTHON
        exec sudo --preserve-env="$KEPT" "$self" "$@"
    fi
    cd "$(dirname "$self")/.." || exit
}

# need_debian FILE: ends here, with one sentence, on a system whose packages are not those that we know. FILE is its
# os-release. Debian's testing and unstable have no number.
need_debian() {
    local ID='' VERSION_ID='' PRETTY_NAME='an unknown system'
    # shellcheck disable=SC1090
    . "$1" 2>/dev/null || true
    [ "$ID" = debian ] && [ "${VERSION_ID:-13}" -ge 13 ] && return
    say "needs Debian 13 or later, whose packages it installs; this is $PRETTY_NAME"
    exit 1
}

# need_packages NAME...: installs what is missing from Debian.
need_packages() {
    local missing
    missing=$(comm -13 <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null |
        sed -n 's/^installed //p' | sort -u) <(printf '%s\n' "$@" | sort -u) | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ -n "$(dpkg --audit)" ]; then # somebody has interrupted dpkg, perhaps by ^C during an earlier run of this
        say "finishing an installation that was interrupted"
        dpkg --configure -a </dev/null >build/apt.log 2>&1 || { cat build/apt.log >&2; return 1; }
    fi
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
        # A ^C while Python itself begins shall be no traceback: docs/design/daemon.md
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

# need_tests PARTS PACKAGE...: what tests need before they can do their own work: these packages, the linters, and these
# parts of the guest. `all` is for those that boot every kind of guest.
need_tests() {
    local parts=$1
    shift
    take_lock
    need_packages "$@"
    need_venv build test lint
    images/build "$parts"
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
