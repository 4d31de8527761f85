#!/usr/bin/env bash
# Every static check, each to its end, so that one run shows everything there is to mend.
set -uo pipefail
failed=0
check() {
    echo "== $*"
    "$@" || failed=1
}
check ruff format --check .
check ruff check .
check mypy
check lint-imports
check yamllint --strict .
check ansible-lint --offline --profile production
exit $failed
