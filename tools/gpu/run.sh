#!/usr/bin/env bash
# Runs the GPU suite that lies beside this script (tools/gpu/pack.sh makes the package) and writes what it said into a folder.
#
#   bash run.sh OUT              # all tests, then all benchmarks
#   bash run.sh OUT --tests      # the tests alone; --benches: the benchmarks alone
#   bash run.sh --where          # only says which driver and libraries are found
#
# Needs bash, the NVIDIA driver and cuBLASLt: in LD_LIBRARY_PATH, of a toolkit (CUDA_HOME, /usr/local/cuda, what ldconfig knows) or of
# the wheels that PyTorch brings (site-packages/nvidia of $PYTHON, by default python3). Nothing of Rust.
#
# In OUT: environment.txt, tests.log, benches.log, a table of each benchmark (.md and .csv), summary.txt. Fails where a test or a
# benchmark failed, and where a test was skipped: without a device nothing has been tested.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  echo "$1; usage: bash run.sh OUT [--tests | --benches], or bash run.sh --where" >&2
  exit 2
}

# Folders in which there may be CUDA libraries, the first ones first.
folders() {
  local home program folder
  tr : '\n' <<<"${LD_LIBRARY_PATH:-}" | grep .
  for home in ${CUDA_HOME:+"$CUDA_HOME"} ${CUDA_PATH:+"$CUDA_PATH"} "${USUAL_CUDA_HOME:-/usr/local/cuda}"; do
    printf '%s\n' "$home/lib64" "$home/targets/x86_64-linux/lib" "$home/lib"
  done
  { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | sed -n 's,.*=> \(/.*\)/libcublasLt\.so\.[0-9]*$,\1,p'
  program='import site, sys; print("\n".join(site.getsitepackages() + [site.getusersitepackages()] + sys.path))'
  "${PYTHON:-python3}" -c "$program" 2>/dev/null | while read -r folder; do
    [ -n "$folder" ] && printf '%s\n' "$folder"/nvidia/cu13/lib "$folder"/nvidia/cublas/lib
  done
}

# The first file of these names, given as patterns, in the folders that are read; a name is looked for in all folders before the next.
first() {
  local folders name folder file
  folders=$(cat)
  for name in "$@"; do
    while read -r folder; do
      for file in "$folder"/$name; do
        [ -e "$file" ] && printf '%s\n' "$file" && return
      done
    done <<<"$folders"
  done
}

only=all out=
for word in "$@"; do
  case $word in
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p;}' "$0" && exit ;;
    --tests | --benches | --where)
      [ "$only" = all ] || usage "--$only and $word"
      only=${word#--}
      ;;
    -*) usage "$word is not known" ;;
    *) [ -z "$out" ] || usage "two folders" && out=$word ;;
  esac
done
[ "$only" = where ] || [ -n "$out" ] || usage "no folder to write into"
[ "$only" != where ] || [ -z "$out" ] || usage "$out beside --where"
if [ "$only" != where ] && ! ls "$here"/test-* "$here"/bench-* >/dev/null 2>&1; then
  echo "no programs lie beside $0: run the one of a package, which tools/gpu/pack.sh makes" >&2
  exit 2
fi

# The programs are made for the libraries of CUDA 13.
cublas=$(folders | first libcublasLt.so.13 libcublasLt.so 'libcublasLt.so.[0-9]*')
driver=$({ tr : '\n' <<<"${LD_LIBRARY_PATH:-}" | grep . || true
  printf '%s\n' /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/local/nvidia/lib64 /usr/lib/wsl/lib
  { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | sed -n 's,.*=> \(/.*\)/libcuda\.so\.1$,\1,p'; } | first libcuda.so.1)
for file in "$cublas" "$driver"; do
  [ -n "$file" ] && LD_LIBRARY_PATH=$(dirname "$file")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
# What tests read lies in the package, and they look for it from there.
[ ! -d "$here/shared" ] || export CANDLEWICK_SHARED=$here/shared

about() {
  [ -f "$here/ABOUT" ] && cat "$here/ABOUT"
  echo "run $(date -u +%Y-%m-%dT%H:%MZ) on $(uname -sr)"
  echo "driver library: ${driver:-none}"
  echo "cuBLASLt: $([ -n "$cublas" ] && realpath "$cublas" || echo none)"
  echo "LD_LIBRARY_PATH: ${LD_LIBRARY_PATH:-}"
  echo "glibc here: $(getconf GNU_LIBC_VERSION 2>/dev/null || echo unknown)"
  command -v nvidia-smi >/dev/null &&
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit --format=csv 2>&1 ||
    echo "nvidia-smi says nothing: no driver, or it is not in PATH"
}
if [ "$only" = where ]; then
  about
  exit
fi

mkdir -p "$out" || exit
about | tee "$out/environment.txt"
: >"$out/summary.txt"
failed=0
# Says it, and keeps it for the end.
verdict() {
  echo "$1" | tee -a "$out/summary.txt"
  [ "${1%% *}" = passed ] || failed=1
}

if [ -z "$driver" ]; then
  verdict 'FAILED: no libcuda.so.1 was found, so that nothing was run; install the driver of NVIDIA, 580 or newer'
  exit 1
fi
# Without it the programs multiply by their own kernel, and what they do with the library stays untested.
[ -n "$cublas" ] || verdict "FAILED: no cuBLASLt was found"

if [ "$only" != benches ]; then
  : >"$out/tests.log"
  for program in "$here"/test-*; do
    name=$(basename "$program")
    log=$(mktemp)
    # With the variable a test that finds no device fails; --show-output shows what one that passed has skipped.
    (cd "$here" && CANDLEWICK_NEEDS_GPU=1 "$program" --show-output) 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    cat "$log" >>"$out/tests.log"
    if [ "$code" != 0 ]; then
      verdict "FAILED $name: exit status $code"
    elif grep -q '^skipped:' "$log"; then
      verdict "FAILED $name: not everything was tested: $(grep -m 1 '^skipped:' "$log")"
    elif ! grep -q '^test result: ok\. [1-9]' "$log"; then
      verdict "FAILED $name: no test ran"
    else
      verdict "passed $name: $(sed -n 's/^test result: ok\. //p' "$log")"
    fi
    rm -f "$log"
  done
fi

if [ "$only" != tests ]; then
  : >"$out/benches.log"
  for program in "$here"/bench-*; do
    name=$(basename "$program")
    note=$(tr '\n' ';' <"$out/environment.txt" | sed 's/;LD_LIBRARY_PATH.*//; s/;/; /g')
    CANDLEWICK_NEEDS_GPU=1 "$program" --output "$out/$name.md" --output "$out/$name.csv" --note "$note" 2>&1 |
      tee -a "$out/benches.log"
    code=${PIPESTATUS[0]}
    [ "$code" = 0 ] && verdict "passed $name" || verdict "FAILED $name: exit status $code"
  done
fi

echo
cat "$out/summary.txt"
exit "$failed"
