# Recipes for people; `just ci` is what every change has to pass.
fixtures := env("CANDLEWICK_SHARED", "../shared")
venv := ".venv"
python := venv / "bin/python"
tinystories := fixtures / "assets/weights/tinystories-656k"

# List the recipes.
default:
    @just --list

# Everything a change has to pass.
ci:
    bash .ci/run

# All tests.
test *arguments:
    cargo test --workspace {{ arguments }}

# Formatting and lints.
lint:
    cargo fmt --all --check
    rustfmt --edition 2024 --check crates/losses/src/builtin/*.rs
    cargo clippy --workspace --all-targets -- -D warnings

# The API documentation, without a warning.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licences, duplicate crates and where they come from.
deny:
    cargo deny --version || cargo install cargo-deny --locked --version 0.20.2
    cargo deny check bans licenses sources

# The libraries for WebAssembly.
wasm:
    rustup target add wasm32-unknown-unknown
    cargo check --target wasm32-unknown-unknown --no-default-features -p candlewick-losses -p candlewick-data -p candlewick-kernels -p candlewick-model -p candlewick-train

# Build every package as crates.io would.
package:
    cargo package --workspace --allow-dirty

# Losses and gradients beside the recorded cases.
golden:
    cargo run --release --example golden -- {{ fixtures }}/golden/trl_*.json

# Losses on recorded cases, and whole training runs replayed.
parity:
    tools/compare.sh {{ fixtures }}

# Every CPU kernel beside its naive form.
bench *arguments:
    cargo bench --package candlewick-kernels --bench kernels -- {{ arguments }}

# What a million cached reference rows cost beside a step.
reference-cache *arguments:
    cargo bench --package candlewick-train --bench reference_cache -- {{ arguments }}

# What sketches of each item's gradient add to a pass.
sketches *arguments:
    cargo bench --package candlewick-model --bench sketches -- {{ arguments }}

# Runs killed again and again, so many times each; --record writes down that no bit differed.
violence *arguments:
    python3 benches/violence.py {{ arguments }}

# What a token costs in rows of 64 to 2,048 tokens.
lengths *arguments: _venv
    cargo build --release --quiet --bin wick --package candlewick-cli
    CANDLEWICK_SHARED={{ fixtures }} {{ python }} benches/lengths.py {{ arguments }}

# Optimizer steps beside PyTorch and TRL, every workload that has a goal.
side-by-side *arguments: _venv
    PYTHON={{ python }} CANDLEWICK_SHARED={{ fixtures }} benches/side_by_side.sh {{ arguments }}

# Instructions that a token of a step costs, beside those on record.
instructions *arguments:
    CANDLEWICK_SHARED={{ fixtures }} benches/instructions.sh {{ arguments }}

# The kernels' CUDA sources: fetch a compiler into DIR where there is none, compile, test.
cuda dir="target/cuda":
    [ -x {{ dir }}/bin/nvcc ] || tools/cuda_home.sh {{ dir }}
    CUDA_HOME={{ absolute_path(dir) }} cargo test --package candlewick-kernels --features cuda

# Registers and spills of every CUDA kernel beside those on record; --renew writes them down.
registers *arguments:
    [ -n "${CUDA_HOME:-}" ] || [ -x target/cuda/bin/nvcc ] || tools/cuda_home.sh target/cuda
    CUDA_HOME="${CUDA_HOME:-$PWD/target/cuda}" tools/gpu/registers.py {{ arguments }}

# The GPU suite for a machine with a GPU and no cargo, in DIR and DIR.tar.gz.
gpu-pack dir="target/gpu":
    tools/gpu/pack.sh {{ dir }}

# The package's programs against a driver and a library that are played, on a machine without a GPU.
gpu-rehearse *arguments: gpu-pack
    tools/gpu/rehearse.sh target/gpu {{ arguments }}

# The GPU suite here, on a machine that has one: tests, then each kernel's share of the roof, into OUT.
gpu out="target/gpu-out" *arguments: gpu-pack
    bash target/gpu/run.sh {{ out }} {{ arguments }}

# PyTorch's sides and ours (a wick that is built for it, or --ours PROGRAM) on a machine with a GPU, into OUT; --tiny rehearses it anywhere.
gpu-side-by-side out="target/gpu-side-by-side-out" *arguments: _venv
    #!/usr/bin/env bash
    set -euo pipefail
    ours=()
    case " {{ arguments }} " in
      *" --tiny "* | *" --list "* | *" --ours "* | *" --ours="*) ;;
      *)
        [ -n "${CUDA_HOME:-}" ] || [ -x target/cuda/bin/nvcc ] || tools/cuda_home.sh target/cuda
        CUDA_HOME="${CUDA_HOME:-$PWD/target/cuda}" cargo build --release --package candlewick-cli --features cuda --bin wick
        ours=(--ours "{{ python }} benches/gpu/wick.py --device cuda ${CARGO_TARGET_DIR:-target}/release/wick")
        ;;
    esac
    CANDLEWICK_SHARED={{ fixtures }} {{ python }} benches/gpu/suite.py {{ out }} ${ours[@]+"${ours[@]}"} {{ arguments }}

# The suite's twins beside transformers on one sequence after the other, and what its numbers rest on; without a GPU.
gpu-side-by-side-check: _venv
    CANDLEWICK_SHARED={{ fixtures }} {{ python }} -W ignore benches/gpu/check.py

# Python reads what is written here, and gives the same logits.
interop: _venv && interop-trained
    rm -rf target/interop target/interop-scores
    CANDLEWICK_INTEROP="$PWD/target/interop" cargo test --test expected what_is_written_reads_back
    CANDLEWICK_INTEROP_SCORES="$PWD/target/interop-scores" cargo test --test expected what_is_written_of_score_models_reads_back
    for copy in target/interop/*; do \
      {{ python }} -W ignore tools/interop/check_logits.py --model $copy/model $([ -d $copy/adapter ] && echo --adapter $copy/adapter) $copy/logits.json || exit 1; \
    done
    for copy in target/interop-scores/*; do \
      {{ python }} -W ignore tools/interop/check_scores.py --model $copy/model $([ -d $copy/adapter ] && echo --adapter $copy/adapter) $copy/scores.json || exit 1; \
    done

# An adapter trained here, as Python's peft reads it.
interop-trained: _venv
    cargo run --release --example parity -- --model {{ tinystories }} --adapter {{ fixtures }}/parity/dpo_lora_adapter/init --save target/interop-trained {{ fixtures }}/parity/dpo_lora.json
    {{ python }} -W ignore tools/interop/check_logits.py --tolerance 2e-5 --model {{ tinystories }} --adapter target/interop-trained target/interop-trained/logits.json

# What `wick merge` makes of models and adapters, beside Python's peft.
interop-merged: _venv
    cargo build --release --bin wick -p candlewick-cli
    {{ python }} -W ignore tools/merging/check.py target/release/wick

# Make the pages that are made of doc comments again: docs/reference/objectives.md, docs/papers.md.
docs-update:
    UPDATE_EXPECTED=1 cargo test --test reference

# The benchmark of loss variants: some hours; --short: what CI runs of it.
losses *arguments:
    benches/losses/run.sh {{ arguments }}
    python3 benches/losses/tables.py

# What every objective costs beside DPO.
bench-losses *arguments:
    cargo bench --package candlewick-losses -- {{ arguments }}

# One step of the way to token ids beside `datasets` and TRL: a file of HH's rows, repeated.
bench-data *arguments: _venv
    cargo build --release --bin wick -p candlewick-cli
    {{ python }} benches/data.py --python {{ python }} {{ arguments }}

# Feed TARGET (rows, template, parquet) with inputs for SECONDS; what it finds stays in fuzz/artifacts.
fuzz target="rows" seconds="600":
    cargo +nightly fuzz --version || cargo install cargo-fuzz --locked --version 0.13.2
    mkdir -p fuzz/corpus/{{ target }}
    cargo +nightly fuzz build --sanitizer none --codegen-units 4 {{ target }}
    ulimit -v 2097152 && cargo +nightly fuzz run --sanitizer none --codegen-units 4 {{ target }} \
      fuzz/corpus/{{ target }} fuzz/seeds/{{ target }} -- -max_total_time={{ seconds }} -timeout=20 -rss_limit_mb=1024 \
      -max_len=16384 -print_final_stats=1 {{ if target == "template" { "-dict=fuzz/template.dict" } else { "" } }}

# Follow CONTRIBUTING.md in a copy: its loss joins the list and passes.
new-loss *arguments:
    tools/new_loss.sh {{ arguments }}

# Make the expectations under tests/expected again (the diff should be empty).
expectations: _venv
    rm -rf target/gpt2 && mkdir -p target/gpt2
    gunzip -c {{ fixtures }}/assets/tokenizers/gpt2/tokenizer.json.gz > target/gpt2/tokenizer.json
    cp {{ fixtures }}/assets/tokenizers/gpt2/tokenizer_config.json target/gpt2/
    {{ python }} tools/interop/make_models.py
    {{ python }} tools/interop/make_score_models.py
    {{ python }} tools/interop/make_logits.py {{ tinystories }}
    {{ python }} tools/interop/make_logits.py {{ tinystories }} --adapter {{ fixtures }}/parity/dpo_lora_adapter/final
    {{ python }} tools/interop/make_tokenization.py --tokenizer tinystories-656k={{ tinystories }} --tokenizer gpt2=target/gpt2

_venv:
    [ -x {{ python }} ] || python3 -m venv {{ venv }}
    {{ python }} -c 'import torch, trl, peft' 2>/dev/null || {{ venv }}/bin/pip install --quiet -r tools/interop/requirements.txt

# A crate outside the workspace trains with a loss of its own.
outside:
    tools/outside_crate.sh
