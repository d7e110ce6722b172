#!/usr/bin/env bash
# Builds and runs a crate outside the workspace that depends on candlewick by path and trains with a loss of its own
# (the source is examples/own_loss.rs, compiled as somebody else's main.rs).
#
# It takes the workspace's lock file, profile and target directory, so that no dependency is compiled twice.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
mkdir "$outside/src"
cp "$root/examples/own_loss.rs" "$outside/src/main.rs"
cp "$root/Cargo.lock" "$outside/Cargo.lock"
cat >"$outside/Cargo.toml" <<TOML
[package]
name = "outside"
version = "0.0.0"
edition = "2024"
publish = false

[workspace]

[dependencies]
anyhow = "1"
candle-core = "0.11.1"
candlewick = { path = "$root" }
# As training scripts have; \`wick\` too, and with the same features as its dependencies nothing compiles twice.
clap = { version = "4.6", features = ["derive"] }
ctrlc = { version = "3.5", features = ["termination"] }

$(awk '/^\[/ { profile = /^\[profile\./ } profile' "$root/Cargo.toml")
TOML
cd "$outside"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} cargo run --quiet
