#!/usr/bin/env bash
# Installs the Debian packages that are missing; elsewhere says what is needed.
set -euo pipefail

missing=()
for package in "$@"; do
    case $package in
        # A Postgres of another kind does, wherever its programs are.
        postgresql) command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=("$package") ;;
        nodejs) command -v node >/dev/null || missing+=("$package") ;;
        php-cli) command -v php >/dev/null || missing+=("$package") ;;
        varnish) command -v varnishd >/dev/null || missing+=("$package") ;;
        nginx | npm | python3 | rclone | s3cmd | slowhttptest | curl) command -v "$package" >/dev/null || missing+=("$package") ;;
        pkg-config) command -v pkg-config >/dev/null || missing+=("$package") ;;
        build-essential) command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null || missing+=("$package") ;;
        ca-certificates) [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki ] || missing+=("$package") ;;
        python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=("$package") ;;
        *) dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package") ;;
    esac
done

[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "please install what your system calls: ${missing[*]}" >&2
    exit 1
fi

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
echo "installing ${missing[*]}"
# The demo has a Postgres of its own: a fresh machine need not start another.
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
