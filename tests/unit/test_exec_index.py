"""An index of rules about commands changes how fast a decision is, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gloveport.model import ExecRequest, ExecRule, Limits, Origin, Policy, PolicyLayer, Verdict
from gloveport.policy import decide_exec
from gloveport.policy.commands.index import ExecIndex
from gloveport.policy.commands.shell_grammar import read_argv

PROGRAMS = ["git", "make", "/usr/bin/git", "/opt/own/git", "sh", "g*", "[gm]*", "*", "**", "ls", "env", "-", ""]
WORDS = ["push", "p*", "**", "*", "-f", "all"]
ARGVS = [
    ("git", "push"),
    ("/usr/bin/git", "push", "-f"),
    ("/opt/own/git", "push"),
    ("/workspace/git",),
    ("make", "all"),
    ("env", "A=1", "git", "push"),
    ("sh", "-c", "git push && make all; ls"),
    ("sh", "-c", "$X push"),
    ("sh", "-c", "$(which git) push; ls"),
    ("sh", "-c", "g*t push"),
    ("sh", "-c", "git() { ls; }; git push"),
    ("sh", "-c", "A=1"),
    ("sh", "-c", 'eval "git $X"'),
    ("true",),
    ("[", "a", "]"),
    ("g*", "push"),
    ("git\n",),
]

rules = st.builds(
    ExecRule,
    verdict=st.sampled_from(Verdict),
    command=st.builds(
        lambda program, words: (program, *words),
        st.sampled_from(PROGRAMS),
        st.lists(st.sampled_from(WORDS), max_size=2),
    ),
    reason=st.sampled_from(["", "one", "two"]),
)
layers = st.builds(
    PolicyLayer,
    origin=st.sampled_from([Origin(layer="organisation"), Origin(layer="project", file="p.toml", line=3)]),
    exec=st.none() | st.lists(rules, max_size=8).map(tuple),
    open=st.sampled_from([frozenset(), frozenset({"exec"})]),
)


@given(st.lists(layers, max_size=3), st.sampled_from(ARGVS))
def test_what_the_index_finds_decides_as_the_whole_policy(found: list[PolicyLayer], argv: tuple[str, ...]) -> None:
    policy = Policy(layers=tuple(found))
    request = ExecRequest(argv=argv)
    whole = decide_exec(request, Limits(), {}, policy)
    assert decide_exec(request, Limits(), {}, policy, index=ExecIndex(policy)) == whole


def test_a_decision_looks_only_at_rules_that_may_name_its_program() -> None:
    wanted = [ExecRule(verdict=Verdict.DENY, command=command) for command in (("git", "push"), ("g*",), ("**",))]
    others = [ExecRule(verdict=Verdict.DENY, command=(f"tool-{number}", "**")) for number in range(1000)]
    policy = Policy(layers=(PolicyLayer(origin=Origin(layer="project"), exec=(*others, *wanted)),))
    (layer,) = ExecIndex(policy).about(read_argv(("/usr/bin/git", "fetch")).commands).layers
    assert list(layer.exec or ()) == [others[0], *wanted]
