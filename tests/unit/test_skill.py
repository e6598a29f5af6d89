"""Skills: what ships, and what of a repository's own is let through."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gloveport.agents.skillset import SKILLS_HOME, install_skills, repository_skills, shipped_skills
from gloveport.sandbox import Sandbox, shell_request

pytestmark = pytest.mark.anyio

DESCRIPTION = (
    "When the user asks to implement, refactor, debug, or test code in this repository, use this skill to plan "
    "changes, modify files safely, run tests, and return a patch/diff."
)


@pytest.fixture
def document() -> str:
    (skill,) = shipped_skills()
    return skill.files["SKILL.md"].decode()


def test_the_coding_skill_ships_with_its_template_and_script() -> None:
    (skill,) = shipped_skills()
    assert skill.name == "coding"
    assert sorted(skill.files) == ["SKILL.md", "scripts/find_tests.sh", "templates/report.md"]


def test_its_header_says_when_to_use_it_and_nothing_else(document: str) -> None:
    assert document.startswith(f"---\nname: coding\ndescription: {DESCRIPTION}\n---\n")


def test_it_prescribes_rules_a_workflow_safety_and_an_answer_in_four_parts(document: str) -> None:
    assert re.findall(r"^## (.+)$", document, re.MULTILINE) == [
        "Operating rules",
        "Workflow",
        "Safety",
        "Final output",
    ]
    steps = re.findall(r"^\d\. \*\*(.+?)\.?\*\*", document, re.MULTILINE)
    assert steps == [
        *("Inspect", "Edit", "Format and lint", "Test", "On failure"),
        *("Summary", "Commands executed and results", "Patch", "Follow-ups and risks"),
    ]
    for promise in ("Read the relevant files before you edit", "smallest test command", "no environment variables"):
        assert promise in document


def test_the_template_has_the_same_four_parts(document: str) -> None:
    (skill,) = shipped_skills()
    template = skill.files["templates/report.md"].decode()
    headings = re.findall(r"^## (.+)$", template, re.MULTILINE)
    named = re.findall(r"^\d\. \*\*(.+?)\*\*:", document, re.MULTILINE)
    assert headings == named == ["Summary", "Commands executed and results", "Patch", "Follow-ups and risks"]


def find_tests(directory: Path, *files: str) -> list[str]:
    script = Path(__file__).resolve().parents[2] / "src/gloveport/agents/skills/coding/scripts/find_tests.sh"
    done = subprocess.run(["sh", script, *files], cwd=directory, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_the_script_names_the_smallest_test_first_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "calc.py").write_text("")
    (tmp_path / "tests" / "test_calc.py").write_text("")
    (tmp_path / "package.json").write_text('{"scripts": {"test": "jest"}}')
    (tmp_path / "calc.ts").write_text("")
    (tmp_path / "calc.test.ts").write_text("")
    commands = find_tests(tmp_path, "calc.py", "tests/test_calc.py")
    assert commands[0].startswith("python3 -m ")
    assert commands[0].endswith(" tests/test_calc.py")
    assert len(commands) == len(set(commands))
    assert "npm test" in commands
    assert find_tests(tmp_path, "calc.ts").index("npm test -- calc.test.ts") < commands.index("npm test") + 2


def test_the_script_says_nothing_where_there_is_nothing_to_test(tmp_path: Path) -> None:
    assert find_tests(tmp_path) == []


async def offered(sandbox: Sandbox) -> tuple[dict[str, str], dict[str, str]]:
    """Skills' headers and bodies by name, and reasons by the name of what is left out."""
    skills, refused = await repository_skills(sandbox.files)
    reasons = {re.findall(r"'(.+?)'", reason)[0]: reason for reason in refused}
    return {skill.name: skill.files["SKILL.md"].decode() for skill in skills}, reasons


async def test_a_repository_without_skills_offers_none(sandbox: Sandbox) -> None:
    assert await repository_skills(sandbox.files) == ((), ())


async def test_what_is_offered_is_a_copy_with_a_header_of_our_own_spelling(sandbox: Sandbox) -> None:
    text = '---\r\nname: release\r\ndescription: "Say \\u0022now\\u0022: cut it"\r\nlicense: MIT\r\n---\r\nTag it.\r\n'
    await sandbox.files.write(".claude/skills/release/SKILL.md", text)
    await sandbox.files.write(".claude/skills/release/scripts/tag.sh", "git tag\n")
    skills, refused = await repository_skills(sandbox.files)
    assert refused == ()
    assert skills[0].files == {
        "SKILL.md": b'---\nname: release\ndescription: "Say \\"now\\": cut it"\n---\nTag it.\n',
        "scripts/tag.sh": b"git tag\n",
    }


REFUSED = {
    "hooks": "---\nname: hooks\ndescription: x\nhooks: {}\n---\n",
    "tools": "---\nname: tools\ndescription: x\nallowed-tools: Bash\n---\n",
    "model": "---\nname: model\ndescription: x\nmodel: opus\n---\n",
    "other-name": "---\nname: coding\ndescription: x\n---\n",
    "no-header": "just text\n",
    "open-header": "---\nname: open-header\ndescription: x\n",
    "nothing-said": "---\nname: nothing-said\n---\n",
    "block": "---\nname: block\ndescription: |\n  x\nhooks: {}\n---\n",
    "nested": "---\nname: nested\ndescription: x\n  hooks: {}\n---\n",
    "anchor": "---\nname: anchor\ndescription: &a x\n---\n",
    "flow": "---\n{name: flow, hooks: {}}\n---\n",
    "twice": "---\nname: twice\ndescription: x\ndescription: y\n---\n",
    "escape": '---\nname: escape\ndescription: "x\\u001b[2J"\n---\n',
    "Upper": "---\nname: Upper\ndescription: x\n---\n",
}


async def test_whatever_is_more_than_a_name_and_a_description_is_left_out_with_a_reason(sandbox: Sandbox) -> None:
    for name, text in REFUSED.items():
        await sandbox.files.write(f".claude/skills/{name}/SKILL.md", text)
    await sandbox.files.write(".claude/skills/bytes/SKILL.md", b"---\nname: bytes\ndescription: \xff\n---\n")
    await sandbox.files.write(".claude/skills/empty/README", "x")
    await sandbox.files.write(".claude/skills/large/SKILL.md", "---\nname: large\ndescription: x\n---\n")
    await sandbox.files.write(".claude/skills/large/data", b"x" * 600_000)
    accepted, reasons = await offered(sandbox)
    assert accepted == {}
    assert reasons.keys() == {*REFUSED, "bytes", "empty", "large"}


async def test_links_are_not_followed_and_not_copied(sandbox: Sandbox) -> None:
    good = "---\nname: {}\ndescription: x\n---\n"
    for name in ("linked-file", "linked-text"):
        await sandbox.files.write(f".claude/skills/{name}/SKILL.md", good.format(name))
    done = await sandbox.exec(
        shell_request(
            "cd .claude/skills && ln -s /etc/passwd linked-file/notes && mv linked-text/SKILL.md /tmp/ && "
            "ln -s /tmp/SKILL.md linked-text/SKILL.md && ln -s linked-file linked-skill"
        )
    )
    assert done.ok, done
    accepted, reasons = await offered(sandbox)
    assert accepted == {}
    assert reasons.keys() == {"linked-file", "linked-text", "linked-skill"}


async def test_installed_skills_are_at_the_path_the_agent_is_told_and_scripts_run(sandbox: Sandbox) -> None:
    await install_skills(sandbox.files, shipped_skills())
    await sandbox.files.write("tests/test_calc.py", "")
    done = await sandbox.exec((f"{SKILLS_HOME}/coding/scripts/find_tests.sh", "calc.py"))
    assert done.ok, done
    assert "tests/test_calc.py" in done.text
