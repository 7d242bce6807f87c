#!/usr/bin/env bash
# packhold at work on real files: init, backup, change, backup, list, restore, compare, verify. It leaves nothing behind.
# usage: demo.sh PACKHOLD [FOLDER]     FOLDER, /usr/share/doc by default, is copied first and never changed.
set -euo pipefail

packhold=$(realpath "$1")
files=${2:-/usr/share/doc}
if [ ! -d "$files" ]; then
	files=$("${GO:-go}" env GOROOT)/src
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/packhold-demo.XXXXXX")
trap 'chmod -R u+w "$work" 2>/dev/null || true; rm -rf "$work"' EXIT
for v in $(compgen -e PACKHOLD_ || true); do unset "$v"; done
export HOME=$work/home XDG_CONFIG_HOME=$work/config XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state XDG_DATA_HOME=$work/data
export PACKHOLD_PASSPHRASE='a passphrase for the demo only'
mkdir "$HOME"
started=$SECONDS

say() { printf '\n== %s\n' "$*"; }
run() {
	printf '$ packhold %s\n' "$*"
	"$packhold" "$@"
}
# Everything of a tree but its bytes: type, mode, owner, time to the nanosecond, link target; sizes of files only, for
# those of folders are the file system's affair.
metadata() {
	(cd "$1" && find . -type d -printf '%p %y %m %U %G %T@\n' -o -printf '%p %y %m %U %G %T@ %s %n %l\n' | LC_ALL=C sort)
}
compare() {
	diff -r --no-dereference "$1" "$2"
	diff <(metadata "$1") <(metadata "$2")
	echo "equal: $(find "$1" -type f | wc -l) files, $(du -sb "$1" | cut -f1) bytes, and their owners, modes, times and links"
}

say "Source: a copy of $files"
mkdir "$work/source"
cp -a "$files/." "$work/source/"
du -sh "$work/source" | cut -f1

say "A new repository, at the default place"
run init

say "First backup: everything is read and stored"
run backup --source "$work/source" --type full
cp -a "$work/source" "$work/first"

say "Change some files: new, changed, removed, renamed, linked"
cd "$work/source"
head -c 3000000 /dev/urandom > new.bin
mkdir -p "folder with spaces" && echo hello > "folder with spaces/new file.txt"
find . -type f -size +2k | LC_ALL=C sort | awk 'NR % 50 == 0' | head -20 | while read -r f; do echo "a changed line" >> "$f"; done
find . -type f -size +2k | LC_ALL=C sort | awk 'NR % 50 == 7' | head -10 | while read -r f; do rm "$f"; done
find . -type f -size +2k | LC_ALL=C sort | awk 'NR % 50 == 9' | head -10 | while read -r f; do mv "$f" "$f.renamed"; done
ln new.bin hard-link.bin
ln -s nowhere dangling
truncate -s 20M sparse
touch -d '2001-02-03 04:05:06.123456789' "folder with spaces/new file.txt"
cd - >/dev/null

say "Second backup: only what changed is read and stored. It needs no passphrase"
(unset PACKHOLD_PASSPHRASE; run backup --source "$work/source")

say "The snapshots"
run list

say "Restore both, and compare with what was backed up, byte by byte"
run restore --backup-id 1 --destination "$work/restored1"
compare "$work/first" "$work/restored1"
run restore --backup-id latest --destination "$work/restored2"
compare "$work/source" "$work/restored2"

say "Read and verify everything stored"
run verify --read-data
run stats

printf '\ndemo done in %d s; everything it made is removed\n' $((SECONDS - started))
