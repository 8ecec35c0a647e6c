#!/usr/bin/env bash
# Runs the kernels' self-check on processors that this machine is not: aarch64 with NEON, and x86-64 without AVX and
# without AVX-512, all in user-mode emulation.
#
#     scripts/cross.sh [aarch64] [x86]        both if none is named
#
# Needs a Debian (or a relative of it) on x86-64. What is missing is installed with apt, which needs root. The aarch64
# standard library comes from Debian too, together with the rustc it belongs to; the x86-64 build uses the toolchain of
# the repository. An emulator's speed says nothing about the real processor's. Programs that start a thread hang in this
# emulator, which is why this is not `cargo test`; every run has a time limit.

set -eu
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
debian_rustc=/usr/bin/rustc
out=${CARGO_TARGET_DIR:-$PWD/target}/cross
limit=100 # seconds per run

# build OPTION...: the optimised program, but built on all cores and without debug information.
build() {
    cargo --config 'profile.release.package.gable-kernels.codegen-units = 8' --config 'profile.release.debug = 0' \
        build --release -q -p gable-kernels --example selfcheck "$@"
}

fail() {
    echo "cross.sh: $*" >&2
    exit 1
}

# have PROGRAM-OR-FILE...: whether all are there.
have() {
    for thing in "$@"; do
        command -v "$thing" >/dev/null || [ -e "$thing" ] || return 1
    done
}

# install_packages PACKAGE...
install_packages() {
    command -v apt-get >/dev/null || fail "needs $*, and there is no apt-get to install them with"
    [ "$(id -u)" = 0 ] || fail "packages are missing; run as root:
    dpkg --add-architecture arm64 && apt-get update && apt-get install --no-install-recommends $*"
    echo "installing $*"
    {
        dpkg --add-architecture arm64 && apt-get -q update &&
            DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
    } >"$out/apt.log" 2>&1 || {
        tail -n 5 "$out/apt.log" >&2
        fail "apt could not install $*; its output is in $out/apt.log"
    }
}

# emulate NAME ISA COMMAND...: runs the self-check and fails if anything was wrong, or if the instruction set did not take
# part, so that a run never passes for lack of one.
emulate() {
    name=$1
    isa=$2
    shift 2
    log=$out/$name.log
    start=$(date +%s)
    status=0
    timeout "$limit" "$@" quick >"$log" 2>&1 || status=$?
    case $status in
        0) ;;
        124) fail "$name: not finished after $limit s; output so far in $log" ;;
        *)
            grep -E 'WRONG|panicked' "$log" >&2 || tail -n 5 "$log" >&2
            fail "$name: exit code $status; output in $log"
            ;;
    esac
    grep -q "^$isa " "$log" || fail "$name: the $isa kernels did not run; output in $log"
    echo "$name ($isa): $(tail -n 1 "$log") in $(($(date +%s) - start)) s"
}

check_aarch64() {
    if ! have "$debian_rustc" aarch64-linux-gnu-gcc aarch64-linux-gnu-objdump qemu-aarch64-static /usr/aarch64-linux-gnu/lib ||
        [ ! -d "$("$debian_rustc" --print sysroot)/lib/rustlib/$target/lib" ]; then
        install_packages rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
    fi
    RUSTC=$debian_rustc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CARGO_TARGET_DIR=$out/aarch64 \
        build --target $target
    program=$out/aarch64/$target/release/examples/selfcheck
    aarch64-linux-gnu-objdump -d "$program" >"$out/aarch64.asm"
    sdots=$(grep -cw sdot "$out/aarch64.asm" || true)
    [ "$sdots" -gt 0 ] || fail "no sdot instruction in $program"
    echo "aarch64: $sdots sdot instructions"
    emulate aarch64 neon qemu-aarch64-static -L /usr/aarch64-linux-gnu -cpu max "$program"
}

check_x86() {
    have qemu-x86_64-static || install_packages qemu-user-static
    CARGO_TARGET_DIR=$out/x86 build
    program=$out/x86/release/examples/selfcheck
    emulate nehalem portable qemu-x86_64-static -cpu Nehalem "$program"
    emulate haswell avx2 qemu-x86_64-static -cpu Haswell "$program"
}

[ "$(uname -m)" = x86_64 ] || fail "runs on x86-64 only; elsewhere run the self-check itself:
    cargo run --release -p gable-kernels --example selfcheck"
mkdir -p "$out"
[ $# -gt 0 ] || set -- aarch64 x86
for part in "$@"; do
    case $part in
        aarch64 | x86) "check_$part" ;;
        *) fail "$part is not a part; known: aarch64, x86" ;;
    esac
done
