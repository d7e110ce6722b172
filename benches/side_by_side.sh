#!/usr/bin/env bash
# Builds wick and runs benches/side_by_side.py, whose words it takes. PYTHON: an interpreter that has torch, transformers and trl.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
if ! "$python" -c 'import torch, trl, peft' 2>/dev/null; then
  echo "$python lacks torch, trl or peft; \`just side-by-side\` installs them, PYTHON names another interpreter" >&2
  exit 2
fi
target=${CARGO_TARGET_DIR:-target}
case " $* " in
*' --wick '* | *' --help '* | *' -h '*) exec "$python" benches/side_by_side.py "$@" ;;
esac
cargo build --release --quiet --bin wick --package candlewick-cli
exec "$python" benches/side_by_side.py --wick "$target/release/wick" "$@"
