#!/usr/bin/env bash
# A Chromium for the tests that look at a page: the machine's own, or Debian's where we may install it.
set -euo pipefail
for name in chromium chromium-browser chromium-headless-shell google-chrome google-chrome-stable chrome; do
  if command -v "$name" >/dev/null; then
    exit 0
  fi
done
if [ -n "${MOE_RELEASE_CHROMIUM:-}" ]; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update --quiet=2
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends chromium
else
  echo "no Chromium found: install one (Debian: apt-get install chromium), or name one in MOE_RELEASE_CHROMIUM;" \
    "without it run pytest with -m 'not browser'" >&2
fi
