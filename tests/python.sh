#!/usr/bin/env bash
# A Python environment with what nobody here wrote: S3 tools, and a library that signs tokens.
set -euo pipefail

env=$1
wanted=$(sha256sum tests/requirements.txt)
[ "$(cat "$env/installed" 2>/dev/null)" = "$wanted" ] && exit 0
python3 -m venv --clear "$env"
"$env/bin/pip" install --quiet --disable-pip-version-check --requirement tests/requirements.txt
echo "$wanted" > "$env/installed"
