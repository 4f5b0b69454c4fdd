#!/bin/sh
# What gpu.py needs beside torch, torchvision and what these bring (numpy, pillow), in one file of less than 64 MiB:
#   sh tests/benchmarks/gpu_carried.sh carried.tar.xz
# On the machine:  tar -xJf carried.tar.xz && PYTHONPATH=carried python -m tests.benchmarks.gpu ...
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv pip install --quiet --target "$folder/carried" --no-deps --link-mode copy \
  --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
  pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection pycocotools safetensors psutil nvidia-ml-py \
  albumentations albucore==0.0.24 stringzilla simsimd scipy pyyaml "opencv-python-headless<5"
find "$folder/carried" -name tests -type d -prune -exec rm -rf {} +
XZ_OPT=-9 tar -cJf "$1" -C "$folder" carried
test "$(stat -c %s "$1")" -lt $((64 * 1024 * 1024)) || { echo "$1 is larger than 64 MiB" >&2; exit 1; }
