"""Tasks whose sessions change the project's code."""

from __future__ import annotations

from benchmarks.prompts.script import Task, bash, edit, glob, grep, read, write

__all__ = ["CODE_TASKS"]

_TEST = "python3 -m unittest -q"

_FIX = Task(
    name="fix a bug",
    prompt="A discount of 10 % on 5 cents should be 1 cent, but it is 0. Find out why and fix it.",
    calls=(
        bash("ls"),
        bash("git status --short && git log --oneline -5"),
        grep("discount"),
        glob("shop/*.py"),
        read("shop/invoice.py"),
        read("shop/money.py"),
        read("tests/test_money.py"),
        bash(_TEST),
        bash("python3 -c 'from shop.money import share; print(share(5, 10))'"),
        bash("git log --oneline -- shop/money.py"),
        bash("git blame -L 17,20 shop/money.py"),
        bash("git show HEAD~2 --stat"),
        bash("git diff HEAD~3 -- shop/money.py | head -30"),
        grep(r"share\(", "shop"),
        edit("shop/money.py", "+ 49) //", "+ 50) //"),
        bash("python3 -c 'from shop.money import share; print(share(5, 10))'"),
        edit(
            "tests/test_money.py",
            "        self.assertEqual(share(250, 10), 25)\n",
            "        self.assertEqual(share(250, 10), 25)\n        self.assertEqual(share(5, 10), 1)\n",
        ),
        bash("python3 -m unittest -q tests.test_money"),
        bash(_TEST),
        bash("cd /workspace && make test 2>&1 | tail -5"),
        read("CHANGELOG.md"),
        edit("CHANGELOG.md", "# Changes\n", "# Changes\n\n## Unreleased\n\n- Shares are rounded half up again.\n"),
        bash("git diff"),
        bash("git diff --stat"),
        bash("git add -A && git commit -m 'Round shares half up'"),
        bash("git status"),
    ),
)

_ADD_TEST = Task(
    name="add tests",
    prompt="shop/report.py and shop/orders.py have no tests. Add some.",
    calls=(
        bash("ls tests shop"),
        glob("tests/**/*.py"),
        read("shop/report.py"),
        read("shop/orders.py"),
        read("tests/test_money.py"),
        bash("cat tests/test_invoice.py"),
        bash("head -5 data/orders.csv"),
        grep("load_orders"),
        bash("python3 -m shop.cli data/orders.csv"),
        write(
            "tests/test_report.py",
            "import unittest\n\nfrom shop.report import render, totals\n\n\nclass Report(unittest.TestCase):\n"
            "    def test_totals(self):\n        self.assertEqual(totals([('a', 1), ('a', 2)]), {'a': 3})\n",
        ),
        bash("python3 -m unittest -q tests.test_report"),
        edit(
            "tests/test_report.py",
            "{'a': 3})\n",
            "{'a': 3})\n\n    def test_render(self):\n        self.assertEqual(render([('a', 105)]), 'a: 1.05')\n",
        ),
        bash("python3 -m unittest -v tests.test_report 2>&1 | tail -8"),
        write(
            "tests/test_orders.py",
            "import tempfile\nimport unittest\n\nfrom shop.orders import load_orders\n\n\n"
            "class Orders(unittest.TestCase):\n    def test_loads(self):\n"
            "        with tempfile.NamedTemporaryFile('w', suffix='.csv') as file:\n"
            "            file.write('customer,amount\\na,1.5\\n')\n            file.flush()\n"
            "            self.assertEqual(load_orders(file.name), [('a', 15)])\n",
        ),
        bash("python3 -m unittest -q tests.test_orders"),
        bash("sed -n 1,12p shop/money.py"),
        edit("tests/test_orders.py", "('a', 15)", "('a', 150)"),
        bash("python3 -m unittest -q tests.test_orders"),
        bash("python3 -m unittest discover -s tests -t . 2>&1 | tail -4"),
        bash("for i in 1 2 3; do python3 -m unittest -q || break; done"),
        bash("wc -l tests/*.py"),
        bash("git status --short"),
        bash("git diff --stat"),
        bash("git add tests && git commit -q -m 'Test reports and orders' && git log -1 --stat"),
    ),
)

_RENAME = Task(
    name="rename a function",
    prompt="Rename fmt to format_cents everywhere, documentation included.",
    calls=(
        grep(r"\bfmt\b"),
        bash(r"grep -rn '\bfmt\b' --include='*.py' . | wc -l"),
        bash("rg -l fmt"),
        read("shop/money.py"),
        read("shop/invoice.py"),
        read("shop/report.py"),
        read("tests/test_money.py"),
        read("docs/usage.md"),
        bash("git grep -n fmt | cat"),
        edit("shop/money.py", "def fmt(", "def format_cents("),
        edit("shop/invoice.py", "fmt", "format_cents", everywhere=True),
        edit("shop/report.py", "fmt", "format_cents", everywhere=True),
        bash("python3 -m unittest -q tests.test_invoice"),
        bash("sed -i 's/\\bfmt\\b/format_cents/g' tests/test_money.py"),
        bash("sed -n '1,15p' tests/test_money.py"),
        edit("docs/usage.md", "fmt(1205)", "format_cents(1205)"),
        grep(r"\bfmt\b", mode="count"),
        bash(r"grep -rnw fmt . --include='*.py' --include='*.md' || echo none left"),
        bash(_TEST),
        bash("python3 -m compileall -q shop tests && echo compiled"),
        bash("python3 -m shop.cli data/orders.csv 2>&1 | tail -3"),
        bash("git diff --stat"),
        bash("git diff | grep '^[+-]' | grep -v '^+++\\|^---'"),
        bash("git commit -qam 'Rename fmt to format_cents'"),
        bash("git log --oneline | head -3"),
    ),
)

_REFACTOR = Task(
    name="refactor a module",
    prompt="Split shop/orders.py into reading and cleaning, remove the old loader, and keep the tests passing.",
    calls=(
        bash("ls -la shop"),
        read("shop/orders.py"),
        read("shop/cli.py"),
        read("shop/server.py"),
        grep("old_loader|load_orders"),
        bash("git log --oneline -- shop/orders.py"),
        bash(_TEST),
        bash("git checkout -b split-orders"),
        bash("mkdir -p shop/reading"),
        write("shop/reading/__init__.py", '"""Reading files."""\n'),
        write(
            "shop/reading/rows.py",
            '"""Rows of files."""\n\nimport csv\n\n\ndef rows(path):\n    """Rows of a CSV file."""\n'
            "    with open(path) as file:\n        return list(csv.DictReader(file))\n",
        ),
        bash("python3 -c \"from shop.reading.rows import rows; print(rows('data/orders.csv')[0])\""),
        write(
            "shop/orders.py",
            '"""Orders."""\n\nfrom shop.money import parse_amount\nfrom shop.reading.rows import rows\n\n\n'
            "def load_orders(path):\n    return [clean(row) for row in rows(path)]\n\n\ndef clean(row):\n"
            "    return row['customer'].lower(), parse_amount(row['amount'])\n",
        ),
        bash("python3 -m shop.cli data/orders.csv"),
        read("shop/orders.py"),
        edit("shop/orders.py", "row['customer'].lower()", "row['customer'].strip().lower()"),
        bash("python3 -m shop.cli data/orders.csv | sort"),
        bash("mv shop/reading/rows.py shop/reading/csv_rows.py"),
        edit("shop/orders.py", "shop.reading.rows", "shop.reading.csv_rows"),
        bash(_TEST),
        bash("find shop -name '*.py' | xargs wc -l"),
        bash("find . -name '__pycache__' -prune -exec rm -rf {} +"),
        bash("python3 - <<'END'\nimport shop.orders\nprint([n for n in dir(shop.orders) if n[0] != '_'])\nEND"),
        bash("git add -A && git diff --cached --stat"),
        bash("git commit -m 'Split reading from cleaning'"),
        bash("git checkout main && git merge split-orders"),
        bash("git branch -d split-orders"),
        bash("git log --oneline --graph | head"),
    ),
)

_LINT = Task(
    name="run a linter",
    prompt="Run ruff on the project and fix what it finds. Install it in a virtual environment if it is missing.",
    calls=(
        bash("which ruff; ruff --version"),
        bash("cat pyproject.toml"),
        bash("ls -a"),
        bash("python3 -m venv .venv"),
        bash(".venv/bin/pip install ruff", "packages.example"),
        bash(".venv/bin/pip install --quiet pyflakes pycodestyle", "packages.example"),
        bash("python3 -m pyflakes shop || true"),
        bash("python3 -m compileall -q shop"),
        bash("python3 -W error -c 'import shop.cli, shop.orders, shop.report'"),
        grep("^import os$"),
        read("shop/orders.py"),
        edit("shop/orders.py", "import os\n", ""),
        bash("awk 'length > 100 {print FILENAME\": \"FNR}' shop/*.py"),
        bash("grep -rn ' $' shop tests || true"),
        bash("grep -rn 'open(' shop | grep -v with"),
        edit("shop/orders.py", "    return open(path).read().splitlines()", "    return list(load_orders(path))"),
        read("pyproject.toml"),
        edit("pyproject.toml", "dependencies = []\n", "dependencies = []\n\n[tool.ruff]\nline-length = 100\n"),
        bash("python3 -c \"import tomllib; print(tomllib.load(open('pyproject.toml', 'rb'))['tool'])\""),
        bash(_TEST),
        bash("make test"),
        bash("git diff --stat && git status --short"),
        bash("rm -rf .venv"),
        bash("git commit -qam 'Tidy up'"),
    ),
)

_JAVASCRIPT = Task(
    name="work on the front end",
    prompt="Add a function to web/cart.js that applies a discount, with a test. Use left-pad to print amounts.",
    calls=(
        bash("cd web && ls -la && cat package.json"),
        read("web/cart.js"),
        read("web/cart.test.js"),
        bash("node --version && npm --version"),
        bash("cd /workspace/web && npm test 2>&1 | tail -12"),
        bash("cd /workspace/web && npm view left-pad version", "registry.example"),
        bash("cd /workspace/web && npm install --save left-pad", "registry.example"),
        bash("cat /workspace/web/package.json | jq .dependencies"),
        bash("cd /workspace"),
        edit(
            "web/cart.js",
            "module.exports = { sum }",
            "function discounted(lines, percent) {\n  return Math.round(sum(lines) * (100 - percent) / 100)\n}\n\n"
            "module.exports = { sum, discounted }",
        ),
        bash("node -e \"console.log(require('./web/cart').discounted([100, 50], 10))\""),
        edit("web/cart.test.js", "const { sum }", "const { sum, discounted }"),
        edit(
            "web/cart.test.js",
            "test('sums'",
            "test('discounts', () => assert.strictEqual(discounted([100], 10), 90))\ntest('sums'",
        ),
        bash("node --test web/"),
        bash("npm --prefix web test"),
        bash("npx --no-install eslint web || true"),
        bash("node --check web/cart.js && echo fine"),
        grep("left-pad", "web", mode="files_with_matches"),
        bash("curl -sSfL https://cdn.example/left-pad.js -o web/left-pad.js", "cdn.example"),
        write("web/left-pad.js", "module.exports = (text, width) => String(text).padStart(width)\n"),
        bash("node -p \"require('./web/left-pad')(5, 3)\""),
        bash("npm --prefix web test 2>&1 | grep -E '^# (pass|fail)'"),
        bash("git status --short web"),
        bash("git add web && git commit -m 'Discounts in the cart'"),
    ),
)

CODE_TASKS = (_FIX, _ADD_TEST, _RENAME, _REFACTOR, _LINT, _JAVASCRIPT)
