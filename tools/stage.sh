#!/bin/sh
# The programs of a build, laid out in a directory as make install would: bin/, libexec/fvm/.
#
#   tools/stage.sh BUILDDIR DIRECTORY
#
# fvm finds fvm-changes from where it is itself, and neither is to be found in a checkout that other
# users can't read.
set -eu
mkdir -p "$2/bin" "$2/libexec/fvm"
cp "$1/src/cli/fvm" "$2/bin/"
cp "$1/src/cli/fvm-changes" "$2/libexec/fvm/"
