#!/usr/bin/env bash
# Looks at pages that wick made, in headless Chromium: tools/page.sh PICTURES PAGE.html…
#
# The browser comes from npm into target/chromium; where there is no Node.js, nothing is looked at, and a line says so.
set -euo pipefail
cd "$(dirname "$0")/.."
pictures=$1 && shift
if ! command -v npm > /dev/null; then
  echo "no Node.js to bring a browser with: pages are not looked at"
  exit
fi
place=target/chromium
tool=$PWD/tools/page.mjs
mkdir -p "$place"
[ -d "$place/node_modules/puppeteer-core" ] || npm install --prefix "$place" --no-audit --no-fund --silent @sparticuz/chromium@153 puppeteer-core@24
for page in "$@"; do
  page=$(realpath "$page")
  out=$pictures/$(basename "$(dirname "$page")")
  mkdir -p "$out"
  out=$(realpath "$out")
  (cd "$place" && node "$tool" "$page" "$out")
done
