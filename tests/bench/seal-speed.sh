#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Sealing beside "openssl speed" on the same core, interleaved, as ratios of medians of ROUNDS (3).
# Usage: tests/bench/seal-speed.sh BUILD-FOLDER [ROUNDS]
set -eu
tool=${1:?usage: $0 BUILD-FOLDER [ROUNDS]}/tests/bench/seal-speed
rounds=${2:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for round in $(seq "$rounds"); do
    for bytes in 16384 65536 262144; do
        # The last figure of the +F line is bytes per second.
        taskset -c 0 openssl speed -mr -seconds 1 -bytes "$bytes" -evp aes-256-gcm 2>/dev/null |
            awk -F: -v b="$bytes" '/^\+F/ { printf "openssl %d %.0f\n", b, $NF / 1e6 }'
    done
    "$tool" 1 2>&1
done > "$work/all"
grep -q '^seal' "$work/all" || { cat "$work/all" >&2; exit 1; }
python3 - "$work/all" <<'END'
import statistics
import sys

rates = {}
for line in open(sys.argv[1]):
    kind, length, rate = line.split()
    rates.setdefault((kind, int(length)), []).append(float(rate))
median = {key: statistics.median(values) for key, values in rates.items()}
print('%8s %10s %14s %14s' % ('bytes', 'openssl', 'seal (ratio)', 'open (ratio)'))
for length in sorted(length for kind, length in median if kind == 'openssl'):
    base, seal, opened = (median[kind, length] for kind in ('openssl', 'seal', 'open'))
    print('%8d %10.0f %7.0f (%.2f) %7.0f (%.2f)' % (length, base, seal, seal / base, opened,
                                                    opened / base))
for (kind, length), rate in median.items():
    if kind.startswith('control'):
        print('%s, frames of %d bytes over loopback tcp: %.0f MB/s%s' % (
            kind, length, rate, '' if kind == 'control-wall' else ' of CPU time'))
END
