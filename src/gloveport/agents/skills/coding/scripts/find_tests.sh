#!/bin/sh
# Prints commands that likely test the given files, the smallest first, one a line. Changes nothing.
# Usage: find_tests.sh [FILE...]      without files: those that Git says have changed
# Run it in the repository's root.
set -eu

has() { [ -e "$1" ]; }
mentions() { [ -f "$2" ] && grep -qE "$1" "$2"; }
if command -v python3 >/dev/null; then python=python3; else python=python; fi

changed_files() {
    git diff --name-only HEAD 2>/dev/null || true
    git ls-files --others --exclude-standard 2>/dev/null || true
}

# Test files whose name speaks of the source file $1.
tests_for() {
    base=$(basename "$1")
    stem=${base%.*}
    case $base in
    test_* | *_test.* | *.test.* | *.spec.*) [ -f "$1" ] && printf '%s\n' "$1" ;;
    *)
        find . \( -name .git -o -name node_modules -o -name .venv -o -name target \) -prune -o -type f \
            \( -name "test_$stem.*" -o -name "${stem}_test.*" -o -name "$stem.test.*" -o -name "$stem.spec.*" \
            -o -name "${stem}Test.*" \) -print
        ;;
    esac
}

command_for() {
    case $1 in
    *.py)
        if "$python" -c 'import pytest' 2>/dev/null; then
            printf '%s -m pytest -q %s\n' "$python" "$1"
        else
            printf '%s -m unittest %s\n' "$python" "$1"
        fi
        ;;
    *_test.go) printf 'go test ./%s\n' "$(dirname "$1")" ;;
    *.js | *.jsx | *.ts | *.tsx) printf 'npm test -- %s\n' "$1" ;;
    *.sh | *.bats) printf 'bash %s\n' "$1" ;;
    esac
}

suites() {
    if has pytest.ini || has conftest.py || has tests/conftest.py || mentions 'pytest' pyproject.toml ||
        mentions 'pytest' setup.cfg || mentions 'pytest' tox.ini; then
        printf '%s -m pytest -q\n' "$python"
    elif has tests || has test || has pyproject.toml || has setup.py; then
        printf '%s -m unittest discover -q\n' "$python"
    fi
    if mentions '"test"[[:space:]]*:' package.json; then echo 'npm test'; fi
    if has go.mod; then echo 'go test ./...'; fi
    if has Cargo.toml; then echo 'cargo test'; fi
    if has pom.xml; then echo 'mvn -q test'; fi
    if has build.gradle || has build.gradle.kts; then echo './gradlew test'; fi
    if mentions '^test:' Makefile; then echo 'make test'; fi
}

{
    if [ $# -gt 0 ]; then printf '%s\n' "$@"; else changed_files; fi |
        while IFS= read -r file; do tests_for "$file"; done |
        while IFS= read -r test; do command_for "${test#./}"; done
    suites
} | awk '!seen[$0]++'
