#!/usr/bin/env bash
# The tests of the kernels on processors that this machine is not: emulated, without AVX (2008) and with AVX2 but not AVX-512, which the
# emulator does not know.
#
#   tools/older_processors.sh [DIR]     # DIR: where an emulator is unpacked that is not installed, by default target/qemu
#
# An instruction that such a processor lacks ends the tests; so does another result. QEMU comes from the system, or from Debian's
# packages, unpacked and not installed; where neither is there, nothing is run, and a line says so.
set -euo pipefail
cd "$(dirname "$0")/.."
place=${1:-target/qemu}

if [ "$(uname -sm)" != 'Linux x86_64' ]; then
  echo "not Linux on x86-64: no older processor is emulated"
  exit
fi
if ! qemu=$(command -v qemu-x86_64-static || command -v qemu-x86_64); then
  qemu=$place/usr/bin/qemu-x86_64-static
  if ! [ -x "$qemu" ]; then
    mkdir -p "$place"
    if ! (cd "$place" && { apt-get download --quiet qemu-user-static || { apt-get update --quiet && apt-get download --quiet qemu-user-static; }; }); then
      echo "neither QEMU nor Debian's packages are here: no older processor is emulated"
      exit
    fi
    dpkg-deb --extract "$place"/qemu-user-static_*.deb "$place"
  fi
fi

program=$(cargo test --quiet --package candlewick-kernels --lib --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
# Left out: what the emulator does not hand to the system, what takes minutes in it, and the kernel that needs AVX-512.
on() {
  echo "$1:"
  "$qemu" -cpu "$1" "$program" --quiet --skip large_buffers_ask_for_huge_pages --skip token_log_probs::tests::single_precision \
    --skip kernels_multiply_factors "${@:2}"
}
on Nehalem
on max --skip attention --skip token_log_probs
