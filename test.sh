#!/usr/bin/env bash
# Installs what is missing and runs every check of the repository.
#
#   ./test.sh            what continuous integration runs
#   ./test.sh --full     the ignored tests too: long sweeps, large models
#   ./test.sh --list     names of the steps
#   ./test.sh STEP...    only these steps
#
# Everything is built in the release profile, so that one set of compiled dependencies serves tests, benches, lints
# and the programs themselves. A step that fails does not stop the others; the summary at the end names it, and the
# exit code is then 1. Nothing is read from standard input.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec </dev/null
unset GABLE_ISA # every test chooses its own

target=${CARGO_TARGET_DIR:-target}
logs=$target/test-logs
summary=()
failed=0

# --- what the machine has -------------------------------------------------------------------------------------------

has() { command -v "$1" >/dev/null 2>&1; }

# need COMMAND PACKAGE: installs a Debian package unless the command is there.
need() {
    has "$1" && return
    if ! has apt-get; then
        echo "test.sh: '$1' is missing: install it (Debian calls the package $2)" >&2
        return 1
    fi
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! has sudo || ! sudo -n true 2>/dev/null; then
            echo "test.sh: '$1' is missing and this is not root: run 'apt-get install $2'" >&2
            return 1
        fi
        sudo=(sudo -n)
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        "apt-get update -qq && apt-get install -qq -y --no-install-recommends $2" && has "$1"
}

# The instruction sets that must really run here, from what the processor says and not from what Gable detects.
required_isa() {
    local flags isa=portable
    flags=" $(grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null | cut -d: -f2) "
    all() { local f; for f; do [[ $flags == *" $f "* ]] || return 1; done; }
    if all avx2 fma f16c; then
        isa+=,avx2
        all avx_vnni && isa+=,avx2vnni
    fi
    if all avx512f avx512bw avx512dq avx512vl; then
        isa+=,avx512
        if all avx512_vnni; then
            isa+=,avx512vnni
            all avx512_bf16 avx512vbmi && isa+=,avx512bf16
        fi
    fi
    all asimd asimddp && isa+=,neon
    echo "$isa"
}

# --- steps: each a function step_NAME -------------------------------------------------------------------------------

step_install() {
    local ok=0
    if ! has cargo; then
        echo "test.sh: no cargo: install Rust from https://rustup.rs (1.89 or later)" >&2
        return 1
    fi
    need cc gcc || ok=1
    need objdump binutils || ok=1
    need python3 python3 || ok=1
    if ! python3 -m pip --version >/dev/null 2>&1; then
        need pip3 python3-pip || ok=1
    fi
    local component
    for component in rustfmt clippy; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component" || ok=1
    done
    cargo --version
    return $ok
}

step_fmt() { cargo fmt --all --check; }

step_clippy() { cargo clippy --release --workspace --all-targets -- -D warnings; }

step_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --document-private-items; }

# The kernel crate on its own: without rayon, with it, and with few dependencies.
step_features() {
    cargo check --release -p gable-kernels --all-targets --no-default-features || return 1
    cargo check --release -p gable-kernels --all-targets --features rayon || return 1
    local direct
    direct=$(cargo tree -p gable-kernels --no-default-features -e normal --depth 1 --prefix none | tail -n +2)
    echo "dependencies of gable-kernels: $(echo "$direct" | cut -d' ' -f1 | paste -sd' ')"
    [ "$(echo "$direct" | wc -l)" -le 5 ] && ! grep -q rayon <<<"$direct"
}

# All that the tests run, the program among it: built alone, it would be compiled once more, kernels and all.
build_tests() { cargo test --release --workspace --no-run; }

# The models that tests use; already fetched ones are only verified.
step_models() { build_tests && "$target/release/gable" pull smollm2 gemma3 minilm qwen2.5-coder; }

# The report of `gable look` in a browser.
step_report() {
    need chromium chromium && need chromedriver chromium-driver || return 1
    cargo test --release -p gable --test look -- --ignored
}

# Unit, integration and documentation tests.
step_tests() {
    local GABLE_REQUIRE_ISA
    GABLE_REQUIRE_ISA=$(required_isa)
    export GABLE_REQUIRE_ISA
    echo "GABLE_REQUIRE_ISA=$GABLE_REQUIRE_ISA"
    cargo test --release --workspace --no-fail-fast
}

step_ignored() {
    need chromium chromium && need chromedriver chromium-driver || return 1
    GABLE_REQUIRE_ISA=$(required_isa) cargo test --release --workspace --no-fail-fast -- --ignored
}

# The hot loops as compiled: no calls, no spills, the right instructions. An intrinsic that has become a function of its
# own lost its instruction set on the way (a closure or helper that was not inlined) and is called instead of emitted.
step_asm() {
    local binary="$target/release/examples/tables" lost
    build_tests || return 1
    lost=$(nm -C "$binary" | grep core_arch | grep -v xgetbv)
    [ -z "$lost" ] || { printf 'intrinsics that are called:\n%s\n' "$lost"; return 1; }
    python3 scripts/check_asm.py "$binary"
}

# Every bench runs once; nothing is timed.
step_benches() { cargo bench -p gable-benches -- --test; }

# Faults planted in the kernels: each must be found by a test.
step_mutants() { python3 scripts/mutants.py; }

# Other processors, emulated: aarch64, and x86 without AVX-512 or without AVX.
step_cross() {
    if [ ! -f scripts/cross.sh ]; then
        echo "scripts/cross.sh is not there yet"
        return 0
    fi
    bash scripts/cross.sh
}

# --- running them ---------------------------------------------------------------------------------------------------

# "12 passed, 0 failed, 1 ignored", summed over all test programs of a log.
counts() {
    awk '/^test result:/ { n++; for (i = 2; i < NF; i++) {
            if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i; if ($(i+1) ~ /^ignored/) g += $i } }
        END { if (n) printf "%d passed, %d failed, %d ignored", p, f, g }' "$1"
}

run() {
    local name=$1 start=$SECONDS verdict=ok
    printf '\n==> %s\n' "$name"
    "step_$name" 2>&1 | tee "$logs/$name.log"
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then
        verdict=FAILED
        failed=1
    fi
    summary+=("$(printf '%-10s %-7s %4d s  %s' "$name" "$verdict" $((SECONDS - start)) "$(counts "$logs/$name.log")")")
}

steps=(install fmt clippy docs features models tests asm benches cross)
case ${1-} in
--full)
    steps+=(ignored mutants)
    ;;
--list)
    printf '%s\n' "${steps[@]}" report ignored mutants
    exit
    ;;
-h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit
    ;;
?*)
    for name; do
        if ! declare -F "step_$name" >/dev/null; then
            echo "test.sh: no step '$name'; there are: ${steps[*]} ignored" >&2
            exit 2
        fi
    done
    steps=("$@")
    ;;
esac

mkdir -p "$logs"
for name in "${steps[@]}"; do
    run "$name"
done
printf '\n==> summary, %d s\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
[ $failed -eq 0 ] && echo "all checks passed" || echo "some checks FAILED; output in $logs"
exit $failed
