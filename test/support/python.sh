#!/usr/bin/env bash
# Prints the path of a Python that has the given packages, installed once into a folder of the user's cache: peers for tests and
# benchmarks. Usage: test/support/python.sh runpod==1.12.0
set -euo pipefail
folder=${XDG_CACHE_HOME:-$HOME/.cache}/img2vid-tests/$(printf '%s-' "$@" | tr -c 'A-Za-z0-9.\n' -)python
if [ ! -e "$folder/ready" ]; then
  rm -rf "$folder"
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
  touch "$folder/ready"
fi
echo "$folder/bin/python"
