"""What the scripted model says in the demo: the turns of an engineer who reads, reproduces, fixes and tests."""

from __future__ import annotations

from gloveport.testing import Text, ToolUse
from gloveport.testing.scripted import Turn

__all__ = ["PROMPT", "turns"]

PROMPT = (
    "SimpleSpec('==0.1.*') only matches 0.1.0. I expected it to match every 0.1 release: 0.1.1 and 0.1.99 should "
    "match, 0.2.0 should not. SimpleSpec('==1.*') does what I expect. Please find out why, fix it, and add a test."
)

_REPRODUCE = (
    'python3 -c "from semantic_version import SimpleSpec, Version as V; '
    "print({v: V(v) in SimpleSpec('==0.1.*') for v in ('0.1.0', '0.1.1', '0.1.99', '0.2.0')})\""
)
_SMALLEST_TESTS = "python3 -m pytest -q -p no:cacheprovider -W ignore tests/test_base.py"


def _fetch(url: str) -> str:
    return f"python3 -c \"import urllib.request as u; print(u.urlopen('{url}').read().decode())\""


def turns(tracker: str) -> tuple[Turn, ...]:
    """The script; the issue is at `tracker`."""

    def call(tool: str, **asked: object) -> ToolUse:
        return ToolUse(tool, asked)

    base = "/workspace/semantic_version/base.py"
    tests = "/workspace/tests/test_base.py"
    return (
        (Text("I will follow the coding skill."), ToolUse("Skill", {"skill": "coding"})),
        (
            Text("What does the tracker say, and what others?"),
            call("Bash", command=_fetch(tracker), description="Read the issue"),
            call("Bash", command=_fetch("http://elsewhere.example/"), description="Look elsewhere"),
        ),
        (
            Text("I may read the tracker, and nothing else. Now I look for where a wildcard becomes a range."),
            call("Grep", pattern="next_patch|next_minor", path="/workspace/semantic_version", output_mode="content"),
            call("Bash", command=_REPRODUCE, description="Reproduce the report"),
        ),
        (Text("The report is right. The branch for '=='."), call("Read", file_path=base, offset=1095, limit=60)),
        (
            Text(
                "With a wildcard in the patch position the upper bound is the next patch; the '!=' branch below "
                "already uses the next minor version. The same is right here."
            ),
            call(
                "Edit",
                file_path=base,
                old_string="Range(Range.OP_LT, target.next_patch())",
                new_string="Range(Range.OP_LT, target.next_minor())",
            ),
        ),
        (Text("Now a test beside the others."), call("Read", file_path=tests, offset=636, limit=25)),
        (
            call(
                "Edit",
                file_path=tests,
                old_string="        '>=0.1.1,<0.1.2': (\n",
                new_string=(
                    "        '==0.1.*': (\n            ['0.1.0', '0.1.1', '0.1.99'],\n"
                    "            ['0.1.0-alpha', '0.2.0'],\n        ),\n"
                    "        '>=0.1.1,<0.1.2': (\n"
                ),
            ),
        ),
        (
            Text("The smallest relevant tests, and the report again."),
            call("Bash", command=_SMALLEST_TESTS, description="Run the tests of the changed module"),
            call("Bash", command=_REPRODUCE, description="Reproduce the report again"),
        ),
        (
            Text(
                "1. Summary: `==X.Y.*` was compiled to a range that ends at the next patch version; it now ends at the "
                "next minor version, as `!=X.Y.*` already did. A test covers it.\n"
                "2. Commands executed and results: the reproduction (wrong before, right after); "
                f"`{_SMALLEST_TESTS}`: passed.\n"
                "3. Patch: semantic_version/base.py (one line), tests/test_base.py (one case).\n"
                "4. Follow-ups and risks: `==X.Y` without a wildcard has the same meaning and changes with it."
            ),
        ),
    )
