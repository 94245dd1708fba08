#!/usr/bin/env bash
# Runs the property tests with fresh seeds and many cases, round after round, and prints the seed of
# a failure. `cargo test` itself always uses the seed in .cargo/config.toml.
#
#     scripts/long-tests.sh [ROUNDS]        10 rounds by default; CASES=4096 cases a property
#
# To run a failed round again: PROPTEST_RNG_SEED=... PROPTEST_CASES=... cargo test ...
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-10}
cases=${CASES:-4096}
# Every target with property tests; tests/tidy.rs checks that none is missing.
targets=(--lib --test bundle_fuzz --test compile --test config)
# A heuristic that is the best one on the fixed instances only.
skip=(--skip of_few_groups_the_order_is_the_best)

cargo test --locked --no-run "${targets[@]}"
for ((round = 1; round <= rounds; round++)); do
    seed=$(od -An -N8 -tu8 /dev/urandom | tr -d ' ')
    again="PROPTEST_RNG_SEED=$seed PROPTEST_CASES=$cases cargo test --locked ${targets[*]} -- ${skip[*]}"
    printf '\n=== round %d of %d: %s\n' "$round" "$rounds" "$again"
    if ! PROPTEST_RNG_SEED=$seed PROPTEST_CASES=$cases cargo test --locked "${targets[@]}" -- "${skip[@]}"; then
        printf '\nFAILED with seed %s. To run it again:\n    %s\n' "$seed" "$again" >&2
        exit 1
    fi
done
