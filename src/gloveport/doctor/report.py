"""Reports as JSON and back: they come from a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gloveport.doctor.attack import Attack, AttackKind, Finding, Outcome, Report

__all__ = ["decode_reports", "encode_reports"]


def encode_reports(reports: Mapping[str, Report]) -> str:
    """One line of JSON: the report for each guard that was taken away, or under no name for none."""
    return json.dumps({guard: asdict(report) for guard, report in reports.items()})


def decode_reports(text: str) -> dict[str, Report]:
    """What `encode_reports` made."""
    return {guard: _decode(body) for guard, body in json.loads(text).items()}


def _decode(body: Mapping[str, Any]) -> Report:
    findings = [
        Finding(
            attack=Attack(**{**finding["attack"], "kind": AttackKind(finding["attack"]["kind"])}),
            outcome=Outcome(finding["outcome"]),
            evidence=finding["evidence"],
            control=finding["control"],
        )
        for finding in body["findings"]
    ]
    return Report(backend=body["backend"], findings=findings, plan_digests=body["plan_digests"])
