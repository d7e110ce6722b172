#!/usr/bin/env bash
# A CUDA 13.0 compiler without NVIDIA's installer and without a GPU: nvcc and its headers from PyPI, laid out as CUDA_HOME expects.
#
#   tools/cuda_home.sh DIR && CUDA_HOME=DIR cargo test --package candlewick-kernels --features cuda
#
# Enough to compile this project's .cu files. The driver is looked up at run time, so nothing here stands in for it.
set -euo pipefail
home=${1:?usage: tools/cuda_home.sh DIR}
mkdir -p "$home"
home=$(realpath "$home")
python=${PYTHON:-python3}

# One version: PTX of a newer compiler is refused by a 13.0 driver.
release=13.0.88
"$python" -m pip install --quiet --upgrade --target "$home/wheels" \
  "nvidia-cuda-nvcc==$release" "nvidia-cuda-crt==$release" "nvidia-nvvm==$release" \
  'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'

for part in bin include nvvm lib; do
  ln -sfn "wheels/nvidia/cu13/$part" "$home/$part"
done
ln -sfn lib "$home/lib64"
chmod +x "$home"/bin/* "$home"/nvvm/bin/*

# Proof that it compiles, not only that it downloaded.
printf '__global__ void probe(float *x) { x[threadIdx.x] *= 2.0f; }\n' >"$home/probe.cu"
"$home/bin/nvcc" --ptx --gpu-architecture=compute_80 --output-file "$home/probe.ptx" "$home/probe.cu"
grep -q '^\.visible \.entry' "$home/probe.ptx"
"$home/bin/nvcc" --version | tail -n 2
echo "CUDA_HOME=$home"
