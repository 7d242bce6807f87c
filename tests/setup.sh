#!/usr/bin/env bash
# Installs what tests use and the machine lacks: on Debian, as root. With the argument bench also what `make bench` compares with.
set -euo pipefail

# The S3 server of the tests: a program of its own, no dependency of ours.
versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0
bin=$(go env GOPATH)/bin
if ! command -v versitygw >/dev/null && [ ! -x "$bin/versitygw" ]; then
	GOBIN=$bin GOFLAGS= go install "$versitygw" || echo "note: versitygw could not be installed, tests of S3 are skipped" >&2
fi

declare -A package=(
	[setfattr]=attr [setfacl]=acl [setcap]=libcap2-bin [mkfs.ext4]=e2fsprogs [mkfs.btrfs]=btrfs-progs [lowntfs-3g]=ntfs-3g [mount]=mount [unshare]=util-linux
	[diff]=diffutils [find]=findutils [sshd]=openssh-server [ssh]=openssh-client [rclone]=rclone [git]=git [gcc]=gcc [python3]=python3
)
if [ "${1:-}" = bench ]; then
	package+=([restic]=restic [borg]=borgbackup)
fi
PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in "${!package[@]}"; do
	command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "note: not installed, tests that need them are skipped: ${missing[*]}" >&2
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >/dev/null; then
	echo "note: could not be installed, tests that need them are skipped: ${missing[*]}" >&2
fi
