#!/usr/bin/env bash
# Every GPU figure of this project as one table, and gpu.json beside it, in under 9 minutes.
#   bash tests/bench/gpu.sh [options of gpu.py]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec timeout 540 python tests/bench/gpu.py "$@"
