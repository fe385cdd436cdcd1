#!/usr/bin/env bash
# Gives each peer an environment of its own, outside the repository: $PEERS_DIR/<name>.
# A peer that cannot be installed leaves its error in $PEERS_DIR/<name>.log, and the benchmark reports it.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
PEERS_DIR="${PEERS_DIR:-$HOME/.cache/superposed/peers}"
mkdir -p "$PEERS_DIR"
declare -A packages=(
  [fastapi]="fastapi uvicorn uvloop httptools"
  [litserve]="litserve"
  [mlserver]="mlserver"
  [bentoml]="bentoml"
  [ray]="ray[serve]"
  [river]="river flask gunicorn"
  [vw]="vowpalwabbit fastapi uvicorn uvloop httptools"
  [sklearn]="scikit-learn fastapi uvicorn uvloop httptools"
  [texts-litserve]="litserve onnxruntime tokenizers"
  [texts-mlserver]="mlserver onnxruntime tokenizers"
)
for peer in "${@:-fastapi litserve mlserver bentoml ray river vw sklearn texts-litserve texts-mlserver}"; do
  for name in $peer; do
    venv="$PEERS_DIR/$name"
    [ -e "$venv/.ready" ] && continue
    torch=torch
    [[ $name == texts-* || $name =~ ^(river|vw|sklearn)$ ]] && torch=  # no network, or one in ONNX Runtime
    # shellcheck disable=SC2086 # a list of packages
    if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check \
      --constraint "$here/../../constraints.txt" $torch numpy ${packages[$name]} >"$PEERS_DIR/$name.log" 2>&1; then
      touch "$venv/.ready"
      echo "$name: ready"
    else
      echo "$name: could not be installed: $PEERS_DIR/$name.log"
    fi
  done
done
