"""The project that every task begins with: a small shop in Python with a little JavaScript, data and a history."""

from __future__ import annotations

from collections.abc import Mapping

from gloveport.sandbox import Sandbox, shell_request

__all__ = ["VARIABLES", "make_project"]

VARIABLES: Mapping[str, str] = {
    # All hosts are made up: nothing is fetched, and the figures do not depend on a network.
    "PIP_INDEX_URL": "https://packages.example/simple",
    "PIP_RETRIES": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "npm_config_registry": "https://registry.example",
    "npm_config_fetch_retries": "0",
    "npm_config_update_notifier": "false",
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""How the machine of the tasks is set up."""

_FILES: Mapping[str, str] = {
    "README.md": "# shop\n\nTotals of a small shop.\n\n    make test\n    python3 -m shop.cli data/orders.csv\n",
    "CHANGELOG.md": "# Changes\n\n## 0.2.0\n\n- Reports by customer.\n\n## 0.1.0\n\n- First release.\n",
    "pyproject.toml": '[project]\nname = "shop"\nversion = "0.2.0"\nrequires-python = ">=3.11"\ndependencies = []\n',
    "Makefile": ".PHONY: test serve\ntest:\n\tpython3 -m unittest -q\nserve:\n\tpython3 -m shop.server 8000\n",
    ".gitignore": "__pycache__/\n.venv/\nnode_modules/\nbuild/\n",
    "shop/__init__.py": '"""A small shop."""\n\n__version__ = "0.2.0"\n',
    "shop/money.py": '''\
"""Amounts of money, in cents."""


def parse_amount(text):
    """Cents from a text such as 12.50."""
    whole, _, part = text.strip().partition(".")
    return int(whole) * 100 + int((part + "00")[:2])


def fmt(cents):
    """A text such as 12.50."""
    return f"{cents // 100}.{cents % 100:02d}"


def share(cents, percent):
    """That many percent, rounded half up."""
    return (cents * percent + 50) // 100
''',
    "shop/invoice.py": '''\
"""Invoices."""

from shop.money import fmt, share


class Invoice:
    """Lines of cents, with a discount in percent."""

    def __init__(self, lines, discount=0):
        self.lines = list(lines)
        self.discount = discount

    def subtotal(self):
        return sum(self.lines)

    def total(self):
        # TODO: taxes
        return self.subtotal() - share(self.subtotal(), self.discount)

    def show(self):
        return fmt(self.total())
''',
    "shop/orders.py": '''\
"""Orders from a file."""

import csv
import os

from shop.money import parse_amount


def load_orders(path):
    """Rows of a CSV file."""
    with open(path) as f:
        return [(row["customer"], parse_amount(row["amount"])) for row in csv.DictReader(f)]


def old_loader(path):
    # TODO: remove
    return open(path).read().splitlines()
''',
    "shop/report.py": '''\
"""Totals by customer."""

from collections import defaultdict

from shop.money import fmt


def totals(orders):
    found = defaultdict(int)
    for customer, cents in orders:
        found[customer] += cents
    return dict(found)


def render(orders):
    return "\\n".join(f"{name}: {fmt(cents)}" for name, cents in sorted(totals(orders).items()))
''',
    "shop/cli.py": '''\
"""The command line."""

import sys

from shop.orders import load_orders
from shop.report import render


def main(arguments):
    print(render(load_orders(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
''',
    "shop/server.py": '''\
"""A page with the totals."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from shop.orders import load_orders
from shop.report import render


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(render(load_orders("data/orders.csv")).encode())


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
''',
    "tests/__init__.py": "",
    "tests/test_money.py": """\
import unittest

from shop.money import fmt, parse_amount, share


class Money(unittest.TestCase):
    def test_parses(self):
        self.assertEqual(parse_amount("12.5"), 1250)

    def test_shows(self):
        self.assertEqual(fmt(1205), "12.05")

    def test_share(self):
        self.assertEqual(share(250, 10), 25)
""",
    "tests/test_invoice.py": """\
import unittest

from shop.invoice import Invoice


class Totals(unittest.TestCase):
    def test_discount(self):
        self.assertEqual(Invoice([1000, 500], discount=10).total(), 1350)
""",
    "data/orders.csv": "customer,amount\nada,12.50\nbob, 3.20\nada,7\nEve,0.99\nbob,3.20\n\neve,1.01\n",
    "data/people.json": '[{"name": "ada", "mail": "ada@shop.example"}, {"name": "bob", "mail": ""}]\n',
    "docs/usage.md": "# Usage\n\nCall `fmt(1205)` for `12.05`.\n\nSee TODO.\n",
    "scripts/export.sh": '#!/bin/sh\nset -e\nmkdir -p build\npython3 -m shop.cli "$1" > build/report.txt\n',
    "web/package.json": '{"name": "cart", "version": "0.1.0", "scripts": {"test": "node --test"}}\n',
    "web/cart.js": "function sum(lines) {\n  return lines.reduce((a, b) => a + b, 0)\n}\n\nmodule.exports = { sum }\n",
    "web/cart.test.js": (
        "const test = require('node:test')\nconst assert = require('node:assert')\n"
        "const { sum } = require('./cart')\n\n"
        "test('sums', () => assert.strictEqual(sum([1, 2]), 3))\n"
    ),
}

_HISTORY = """\
set -e
git init -q -b main
git config user.name Shop
git config user.email shop@localhost
git config advice.detachedHead false
commit() { git add -A "$@" && git commit -qm "$message"; }
message='Money and invoices' commit .gitignore Makefile README.md pyproject.toml shop/__init__.py shop/money.py \\
    shop/invoice.py tests
git tag v0.1.0
message='Orders and reports' commit shop data scripts
sed -i 's/ + 50) / + 49) /' shop/money.py
message='Round discounts in favour of the shop' commit shop
message='A page with the totals' commit docs CHANGELOG.md
git tag v0.2.0
message='The cart' commit .
"""


async def make_project(sandbox: Sandbox) -> None:
    """Write the project into a sandbox's workspace and make its history there."""
    for name, text in _FILES.items():
        await sandbox.files.write(name, text.encode())
    made = await sandbox.exec(shell_request(_HISTORY))
    if not made.ok:
        raise RuntimeError(f"the project's history was not made: {made.stderr.decode('utf-8', 'replace')}")
