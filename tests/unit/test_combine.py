"""A spec under its policy: nothing of it goes beyond what a layer leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest

from gloveport.errors import InvalidRequest, NotFound, PolicyDenied, Unsupported
from gloveport.model import MIB, Bind, Hidden, Limits, Origin, Overlay, Policy, PolicyLayer, Source, Spec
from gloveport.policy import PlanInputs, compile_plan, survey
from gloveport.policy.combine import combine, hide, hide_copies, tighten
from gloveport.policy.explain import Question, explain
from gloveport.policy.reading.asking import Machine
from gloveport.policy.reading.document import parse_document
from gloveport.policy.reading.layers import compile_layer, merge_layers
from gloveport.policy.reading.load import load_policy


def layer(text: str, name: str = "project") -> PolicyLayer:
    return compile_layer(parse_document(text.encode(), f"{name}.toml"), name)


def policy(*texts: str) -> Policy:
    return merge_layers([layer(text, name) for text, name in zip(texts, ("organisation", "project"), strict=False)])


def test_no_limit_is_above_what_a_layer_names() -> None:
    limits = Limits(memory_bytes=64 * MIB, processes=900)
    found = tighten(limits, policy('[limits]\nmemory = "100 MiB"\nprocesses = 100\ncpus = 2.0'))
    assert found == Limits(memory_bytes=64 * MIB, processes=100, cpus=2.0)


def test_a_layer_that_leaves_limits_open_bounds_nothing() -> None:
    assert tighten(Limits(processes=900), policy('open = ["limits"]\n[limits]\nprocesses = 100')).processes == 900


def test_limits_that_came_over_the_wire_are_whole_numbers() -> None:
    found = tighten(Limits(), Policy(layers=(PolicyLayer(origin=Origin(layer="project"), limits={"processes": 10.0}),)))
    assert (found.processes, type(found.processes)) == (10, int)


def test_variables_of_a_policy_reach_the_guest_and_nobody_below_changes_them() -> None:
    rules = policy('[environment]\nset = { CI = "1" }', '[environment]\nset = { MORE = "2" }')
    assert dict(combine(Spec(policy=rules, env={"MINE": "3"})).env) == {"CI": "1", "MORE": "2", "MINE": "3"}
    assert combine(Spec(policy=rules, env={"CI": "1"})).env["CI"] == "1"
    with pytest.raises(PolicyDenied, match="the variable CI is set by the policy") as refused:
        combine(Spec(policy=rules, env={"CI": "0"}))
    assert refused.value.context["rule"] == "environment.set.CI: organisation (organisation.toml)"
    opened = policy('open = ["environment"]\n[environment]\nset = { CI = "1" }')
    assert combine(Spec(policy=opened, env={"CI": "0"})).env["CI"] == "0"


def test_paths_that_a_policy_lists_are_the_only_ones_shown(tmp_path: Path) -> None:
    (tmp_path / "data" / "part").mkdir(parents=True)
    data = tmp_path / "data"
    rules = policy(f'[files]\nread_only = ["{data}"]')
    assert combine(Spec(policy=rules)).read_only == (str(data),)
    assert combine(Spec(policy=rules, read_only=(f"{data}/part",))).read_only == (str(data), f"{data}/part")
    for elsewhere in (str(tmp_path), f"{data}-other", "/srv"):
        with pytest.raises(PolicyDenied, match="not among the host paths"):
            combine(Spec(policy=rules, read_only=(elsewhere,)))


def test_a_link_is_no_way_out_of_the_list(tmp_path: Path) -> None:
    for name in ("listed", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "listed" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "other-name").symlink_to(tmp_path / "listed")
    rules = policy(f'[files]\nread_only = ["{tmp_path}/other-name"]')
    assert combine(Spec(policy=rules, read_only=(f"{tmp_path}/listed",))).read_only[-1] == f"{tmp_path}/listed"
    with pytest.raises(PolicyDenied, match="not among the host paths"):
        combine(Spec(policy=rules, read_only=(f"{tmp_path}/listed/link",)))


def test_a_lower_layer_shows_no_more_unless_the_upper_says_so(tmp_path: Path) -> None:
    more = '[files]\nread_only = ["/srv"]'
    assert combine(Spec(policy=policy('[files]\nprotected = ["x"]', more))).read_only == ("/srv",)
    with pytest.raises(PolicyDenied, match="none"):
        combine(Spec(policy=policy("[files]\nread_only = []", more)))
    with pytest.raises(PolicyDenied, match=r"/srv is not among the host paths that the policy shows \(/opt\)"):
        combine(Spec(policy=policy('[files]\nread_only = ["/opt"]', more)))
    opened = policy('open = ["files"]\n[files]\nread_only = ["/opt"]', more)
    assert combine(Spec(policy=opened)).read_only == ("/opt", "/srv")


def test_a_language_is_no_way_around_the_list(tmp_path: Path) -> None:
    node = tmp_path / "node" / "bin"
    node.mkdir(parents=True)
    (tmp_path / "node" / "lib" / "node_modules" / "npm").mkdir(parents=True)
    (tmp_path / "node" / "lib" / "node_modules" / "npm" / "package.json").write_text("{}")
    (node / "node").write_text("")
    (node / "node").chmod(0o755)
    host = survey(str(node))
    inputs = PlanInputs(sandbox="s", host=host, lower=None)
    shown = [mount for mount in compile_plan(Spec(language="node"), inputs).mounts if isinstance(mount, Bind)]
    assert any(bind.source.startswith(str(tmp_path)) for bind in shown)
    with pytest.raises(PolicyDenied, match="not among the host paths"):
        compile_plan(Spec(language="node", policy=policy("[files]\nread_only = []")), inputs)


def test_what_is_hidden_is_covered_wherever_it_is_shown(tmp_path: Path) -> None:
    (tmp_path / "shown" / "secret").mkdir(parents=True)
    (tmp_path / "shown" / "key").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "shown")
    rules = policy(f'[files]\nhidden = ["{tmp_path}/link/secret", "{tmp_path}/shown/key", "{tmp_path}/shown/none"]')
    binds = [Bind(str(tmp_path / "shown"), "/a"), Bind(str(tmp_path / "link"), "/b"), Bind("/usr", "/usr")]
    assert set(hide(rules, binds, None)) == {
        Hidden("/a/secret", is_directory=True),
        Hidden("/b/secret", is_directory=True),
        Hidden("/a/key", is_directory=False),
        Hidden("/b/key", is_directory=False),
    }


def test_nothing_covers_the_users_own_tree(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KEY=1")
    rules = policy(f'[files]\nhidden = ["{tmp_path}/.env"]')
    inputs = PlanInputs(sandbox="s", host=survey(), lower=str(tmp_path))
    with pytest.raises(PolicyDenied, match="the workspace would show"):
        compile_plan(Spec(policy=rules, source=Source(repo=str(tmp_path))), inputs)


def test_hidden_files_of_etc_are_not_copied() -> None:
    rules = policy('[files]\nhidden = ["/etc/fonts"]')
    assert hide_copies(rules, ("/etc/fonts", "/etc/services")) == ("/etc/services",)
    with pytest.raises(Unsupported, match="/etc/fonts is copied whole"):
        hide_copies(policy('[files]\nhidden = ["/etc/fonts/local.conf"]'), ("/etc/fonts",))


def test_the_covers_lie_on_everything_but_the_workspace() -> None:
    plan = compile_plan(
        Spec(policy=policy('[files]\nhidden = ["/usr/share"]')), PlanInputs(sandbox="s", host=survey(), lower=None)
    )
    kinds = [type(mount) for mount in plan.mounts]
    assert kinds[-2:] == [Hidden, Overlay]


def test_a_file_mistakes_a_path_that_is_not_whole() -> None:
    for text in ("relative", "/a/../b"):
        with pytest.raises(InvalidRequest, match="not a whole path"):
            layer(f'[files]\nread_only = ["{text}"]')


def test_home_is_that_of_who_loads_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    found = layer('[files]\nhidden = ["~/x"]').files
    assert found is not None
    assert found.hidden == ("/home/somebody/x",)


def test_the_organisation_is_above_every_file_and_the_command_line_below(tmp_path: Path) -> None:
    organisation, first, second = (tmp_path / name for name in ("org.toml", "a.toml", "b.toml"))
    organisation.write_text("[limits]\nprocesses = 300")
    first.write_text("[limits]\nprocesses = 200")
    second.write_text("[limits]\nopen_files = 100")
    asked = PolicyLayer(origin=Origin(layer="command line"), limits={"processes": 150})
    found = load_policy([str(first), str(second)], organisation=organisation, command_line=asked)
    assert [each.origin.layer for each in found.layers] == ["organisation", "project", "project", "command line"]
    assert (found.limits.processes, found.limits.open_files) == (150, 100)
    more = PolicyLayer(origin=Origin(layer="command line"), limits={"processes": 250})
    with pytest.raises(PolicyDenied, match="limits processes to 200, and 250 is asked"):
        load_policy([str(first)], organisation=organisation, command_line=more)


@pytest.mark.parametrize(
    "what", ["a link to nowhere", "a circle", "below a file", "below a link to nowhere", "a directory"]
)
def test_an_organisations_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, what: str) -> None:
    place = tmp_path / "gloveport" / "policy.toml"
    if what == "below a file":
        place.parent.write_text("")
    elif what == "below a link to nowhere":
        place.parent.symlink_to("nowhere")
    else:
        place.parent.mkdir()
        if what == "a directory":
            place.mkdir()
        else:
            place.symlink_to("policy.toml" if what == "a circle" else "nowhere")
    with pytest.raises(NotFound, match="cannot read the policy"):
        load_policy(["minimal"], organisation=place)


def test_an_organisation_without_a_file_has_no_layer(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for place in ("none", "none/policy.toml", "link/policy.toml"):
        assert len(load_policy(["minimal"], organisation=tmp_path / place).layers) == 1


def test_groups_are_those_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "pip.conf").write_text("[global]\nindex-url = https://index.example/simple\n")
    path.write_text('[egress]\nallow = ["@pip"]')
    machine = Machine(root=tmp_path, home=tmp_path)
    found = load_policy([str(path)], machine=machine, organisation=tmp_path / "none")
    assert [(rule.host, rule.port) for rule in found.layers[0].egress or ()] == [("index.example", 443)]


def test_a_name_is_a_templates_and_a_path_a_files(tmp_path: Path) -> None:
    found = load_policy(["minimal"], organisation=tmp_path / "none")
    assert (found.layers[0].origin.file, found.limits.memory_bytes) == ("template minimal", 256 * MIB)
    with pytest.raises(NotFound, match="no template of a policy is called 'maximal'"):
        load_policy(["maximal"], organisation=tmp_path / "none")
    with pytest.raises(NotFound, match="cannot read the policy"):
        load_policy([str(tmp_path / "missing.toml")], organisation=tmp_path / "none")


@pytest.mark.parametrize(
    ("question", "subject", "verdict", "rule"),
    [
        (Question.HOST, "api.example", "allow", "egress.allow: api.example, organisation (organisation.toml:2)"),
        (Question.HOST, "GET https://else.example/", "deny", "egress.default"),
        (Question.READ, "/usr/bin/env", "allow", "built-in: system directories"),
        (Question.READ, "/usr/share/doc/x", "deny", "files.hidden: organisation (organisation.toml)"),
        (Question.READ, "/opt/../opt/x", "allow", "files.read_only: organisation (organisation.toml)"),
        (Question.READ, "/root/.ssh/id_rsa", "deny", "built-in: the allow-list"),
        (Question.READ, "file", "allow", "built-in: writable places"),
        (Question.WRITE, "file", "allow", "built-in: the sandbox is the wall"),
        (Question.WRITE, "/usr/bin/env", "deny", "built-in: writable places"),
        (Question.WRITE, "/opt/x", "deny", "built-in: writable places"),
        (Question.READ, "/proc/self/status", "allow", "built-in: the guest's own places"),
        (Question.READ, "/dev/null", "allow", "built-in: the guest's own places"),
        (Question.READ, "/run/gloveport/bin/rg", "allow", "built-in: the guest's own places"),
        (Question.READ, "/run/user", "deny", "built-in: the allow-list"),
        (
            Question.COMMAND,
            "cd x && git push --force",
            "deny",
            "exec.deny: git push **, organisation (organisation.toml:7)",
        ),
        (Question.TOOL, "Bash", "deny", "tools.deny: Bash, organisation (organisation.toml:9)"),
    ],
)
def test_a_policy_says_which_rule_decides(question: Question, subject: str, verdict: str, rule: str) -> None:
    rules = policy(
        '[egress]\nallow = ["api.example"]\n[files]\nread_only = ["/opt"]\nhidden = ["/usr/share/doc"]\n'
        '[exec]\ndeny = ["git push **"]\n[tools]\ndeny = ["Bash"]\n'
    )
    found = explain(rules, question, subject, survey())
    assert (found.verdict, found.rule) == (verdict, rule)
