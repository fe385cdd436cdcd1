#!/usr/bin/env bash
# Debian's Chromium, which drives the console's tests: installed where that can be (as root, with apt-get).
set -u
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  timeout 60 apt-get update -qq >/dev/null 2>&1 &&
    timeout 180 apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1
fi
command -v chromium >/dev/null || echo "There is no Chromium and none could be installed: the console's tests are skipped."
