#!/bin/sh
# Are the shipped models what was shipped? The servers start only if this ends well: the check of onepiece/course/model_files.py, which their
# images do not have. Text is hashed with Unix line ends, whatever the checkout made of it.
set -eu
cd "$1"
if [ ! -f SHA256SUMS ]; then
    echo "$1/SHA256SUMS is missing. Restore it with: git checkout -- shared/checkpoints" >&2
    exit 1
fi
tr -d '\r' < SHA256SUMS | while read -r wanted path; do
    case $path in
        *.safetensors) found=$(sha256sum < "$path") ;;
        *) found=$(tr -d '\r' < "$path" | sha256sum) ;;
    esac
    if [ "${found%% *}" != "$wanted" ]; then
        echo "The SHA-256 of $path is wrong: it is not what was shipped. Restore it with: git checkout -- shared/checkpoints" >&2
        exit 1
    fi
done
