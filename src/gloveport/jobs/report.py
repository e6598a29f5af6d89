"""The test command of a run, and the report made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

from gloveport.errors import GloveportError
from gloveport.model import ExecResult
from gloveport.sandbox import Sandbox, shell_request

__all__ = ["TestOutcome", "run_tests"]

_REPORT = "/tmp/.gloveport-junit.xml"
_LONGEST_OUTPUT = 100_000
_XML_FORBIDS = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\t\n\r"}


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """How the test command ended, what it printed, and its report as JUnit XML."""

    result: ExecResult
    report: bytes


async def run_tests(sandbox: Sandbox, command: str) -> TestOutcome:
    """Run `command` with bash in the workspace.

    pytest, wherever the command starts it, is asked through `PYTEST_ADDOPTS` to write its own report; for any other
    command the report has one test case: the command, its exit and its output.
    """
    request = replace(
        shell_request(command),
        env={"PYTEST_ADDOPTS": f"--junitxml={_REPORT}", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    result = await sandbox.exec(request)
    try:
        report = await sandbox.files.read(_REPORT)
    except GloveportError:
        report = b""
    if not _is_report(report):
        report = _one_case(command, result)
    return TestOutcome(result, report)


def _is_report(data: bytes) -> bool:
    # The guest wrote it: read by a parser that resolves no entities and loads nothing, and kept only if well formed.
    if not data or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return False
    try:
        return ET.fromstring(data).tag in ("testsuites", "testsuite")  # noqa: S314 - no entity can be declared
    except ET.ParseError:
        return False


def _one_case(command: str, result: ExecResult) -> bytes:
    ended = result.exit
    output = (result.stdout + result.stderr)[-_LONGEST_OUTPUT:].decode("utf-8", "replace").translate(_XML_FORBIDS)
    counts = {
        "tests": "1",
        "failures": "0" if ended.ok else "1",
        "errors": "0",
        "time": f"{ended.duration:.3f}",
    }
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "test command", **counts})
    case = ET.SubElement(suite, "testcase", {"classname": "command", "name": command, "time": f"{ended.duration:.3f}"})
    if not ended.ok:
        why = "timed out" if ended.timed_out else "out of memory" if ended.oom else f"exit {ended.status}"
        ET.SubElement(case, "failure", {"message": why})
    ET.SubElement(case, "system-out").text = output
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True))
