"""Groups of hosts are what this machine's own tools are set up with, without credentials and without repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gloveport.policy.reading.asking import Machine, this_machine
from gloveport.policy.reading.groups import GROUP_NAMES, Group, find_groups, survey_groups

PASSWORD = "hunter2-hunter2"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with nothing set up, and no program but this Python."""
    (tmp_path / "home").mkdir()
    return Machine(root=tmp_path, home=tmp_path / "home", interpreter=sys.executable)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write_file(place: str, text: str) -> Path:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def group(machine: Machine, name: str, **facts: list[str]) -> Group:
    (found,) = survey_groups(machine, names=[name], repositories=facts.get("repositories", []))
    return found


def pips_default() -> set[str]:
    """What pip itself says, asked another way than the product does."""
    code = "from pip._internal.models.index import PyPI as p; print(p.netloc, p.file_storage_domain)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60).stdout
    return {f"{host}:443" for host in said.split()}


def test_without_any_settings_pip_says_its_own_index_and_where_its_files_are(machine: Machine) -> None:
    default = pips_default()
    if not default:
        pytest.skip("no pip beside this Python")
    assert set(group(machine, "@pip").hosts) == default
    assert len(default) == 2


def test_without_any_settings_npm_says_its_own_registry(machine: Machine) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")
    machine = replace(machine, search_path=tuple(os.environ["PATH"].split(":")))
    elsewhere = {"npm_config_userconfig": "/nonexistent/a", "npm_config_globalconfig": "/nonexistent/b"}
    env = {**{k: v for k, v in os.environ.items() if not k.lower().startswith("npm_config")}, **elsewhere}
    said = subprocess.run(
        [npm, "config", "get", "registry"], cwd="/", env=env, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert group(machine, "@npm").hosts == (f"{urlsplit(said.strip()).hostname}:443",)


def test_where_there_is_no_tool_and_no_file_a_group_is_empty_and_says_so(machine: Machine) -> None:
    bare = replace(machine, interpreter="")
    for found in survey_groups(bare):
        assert found.hosts == ()
    assert [bool(found.notes) for found in survey_groups(bare)] == [True, True, True, False]
    assert list(find_groups(bare)) == list(GROUP_NAMES)


PIPS = [
    "etc/pip.conf",
    "etc/xdg/pip/pip.conf",
    "home/.pip/pip.conf",
    "home/.config/pip/pip.conf",
]


@pytest.mark.parametrize("place", PIPS)
def test_a_mirror_in_any_of_pips_files_takes_the_place_of_the_default(
    machine: Machine, write: Callable[[str, str], Path], place: str
) -> None:
    write(place, "[global]\nindex-url = https://Mirror.Example/simple\nextra-index-url =\n  http://b.example:8080/s\n")
    assert group(machine, "@pip").hosts == ("mirror.example:443", "b.example:8080")


def test_pips_later_files_and_variables_win_as_they_do_in_pip(
    machine: Machine, write: Callable[[str, str], Path]
) -> None:
    for number, place in enumerate(PIPS):
        write(place, f"[global]\nindex_url = https://m{number}.example/simple\n")
    assert group(machine, "@pip").hosts == ("m3.example:443",)
    own = write("own.conf", "[install]\nindex-url = https://own.example/simple\n")
    machine = replace(machine, environ={"PIP_CONFIG_FILE": str(own)})
    assert group(machine, "@pip").hosts == ("m3.example:443", "own.example:443")
    machine = replace(machine, environ={**machine.environ, "PIP_INDEX_URL": "https://env.example/simple"})
    assert group(machine, "@pip").hosts == ("env.example:443",)
    machine = replace(machine, environ={"PIP_CONFIG_FILE": os.devnull})
    assert set(group(machine, "@pip").hosts) == pips_default()


def test_pip_itself_reads_the_same_index(machine: Machine, write: Callable[[str, str], Path]) -> None:
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://mirror.example/simple\n")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        env={"HOME": str(machine.home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        pytest.skip("no pip beside this Python")
    assert group(machine, "@pip").hosts == (f"{urlsplit(done.stdout.strip()).hostname}:443",)


def test_uvs_files_and_variables_count_too(machine: Machine, write: Callable[[str, str], Path]) -> None:
    write("home/.config/uv/uv.toml", '[[index]]\nurl = "https://u.example/simple"\ndefault = true\n')
    write("etc/uv/uv.toml", 'extra-index-url = ["https://x.example/simple"]\n')
    assert set(group(machine, "@pip").hosts) == {"u.example:443", "x.example:443"}
    machine = replace(machine, environ={"UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": "corp=https://v.example/simple"})
    assert group(machine, "@pip").hosts == ("v.example:443",)


@pytest.mark.parametrize(
    ("name", "place", "text"),
    [
        ("@pip", "etc/pip.conf", f"[global]\nindex-url = https://me:{PASSWORD}@mirror.example/simple\n"),
        (
            "@npm",
            "home/.npmrc",
            f"registry=https://me:{PASSWORD}@mirror.example/\n//mirror.example/:_authToken={PASSWORD}",
        ),
        ("@apt", "etc/apt/sources.list", f"deb https://me:{PASSWORD}@mirror.example/debian stable main\n"),
    ],
)
def test_credentials_are_dropped_and_never_told(
    machine: Machine, write: Callable[[str, str], Path], name: str, place: str, text: str
) -> None:
    write(place, text)
    found = group(machine, name)
    assert found.hosts == ("mirror.example:443",)
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize(
    "url", [f"https://u:{PASSWORD}@[bad/simple", f"https://u:{PASSWORD}@a b/s", f"https://u:{PASSWORD}@m:99999/"]
)
def test_a_url_that_cannot_be_understood_is_left_out_unseen(
    machine: Machine, write: Callable[[str, str], Path], url: str
) -> None:
    write("home/.npmrc", f"registry={url}\n")
    found = group(machine, "@npm")
    assert (found.hosts, len(found.notes)) == ((), 1)
    assert PASSWORD not in repr(found)


def test_a_directory_of_this_machine_is_left_out_with_a_note(
    machine: Machine, write: Callable[[str, str], Path]
) -> None:
    write("etc/pip.conf", "[global]\nindex-url = file:///srv/simple\nfind-links = /srv/wheels\n")
    found = group(machine, "@pip")
    assert found.hosts == ()
    assert any("directory of this machine" in note for note in found.notes)


def test_npms_files_are_read_with_scopes_and_variables_and_a_projects_never(
    machine: Machine, write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("home/.npmrc", '; mine\nregistry = "https://${HOST}/"\n@corp:registry=https://corp.example:4873/npm/\n')
    project = write("home/project/.npmrc", "registry=https://evil.example/\n").parent
    monkeypatch.chdir(project)
    machine = replace(machine, environ={"HOST": "n.example"})
    assert set(group(machine, "@npm").hosts) == {"n.example:443", "corp.example:4873"}
    env = {"HOST": "n.example", "npm_config_registry": "https://evil.example/", "npm_lifecycle_event": "test"}
    assert "evil.example:443" not in group(replace(machine, environ=env), "@npm").hosts
    write("prefix/etc/npmrc", "registry=https://global.example/\n")
    write("home/.npmrc", f"prefix={project.parent.parent / 'prefix'}\n")
    assert group(machine, "@npm").hosts == ("global.example:443",)


@pytest.mark.parametrize(
    ("name", "place", "data"),
    [
        ("@pip", "etc/pip.conf", b"index-url = https://no.section\n"),
        ("@pip", "home/.config/uv/uv.toml", b"index = [[["),
        ("@pip", "home/.config/uv/uv.toml", b"pip = 3"),
        ("@npm", "home/.npmrc", b"\xff\xfe"),
        ("@pip", "etc/pip.conf", b"#" * (1024 * 1024 + 1)),
    ],
)
def test_a_file_that_nobody_understands_opens_nothing(
    machine: Machine, tmp_path: Path, name: str, place: str, data: bytes
) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(data)
    found = group(replace(machine, search_path=tuple(os.environ["PATH"].split(":"))), name)
    assert found.hosts == ()
    assert str(tmp_path / place) in found.notes[0]


def test_apts_lines_and_stanzas_are_read_and_disabled_ones_are_not(
    machine: Machine, write: Callable[[str, str], Path]
) -> None:
    write(
        "etc/apt/sources.list",
        "# deb http://no.example x y\ndeb [arch=amd64 signed-by=/k] http://one.example/debian a b\n",
    )
    write("etc/apt/sources.list.d/two.list", "deb-src https://two.example/ a b # deb http://no.example\n")
    write(
        "etc/apt/sources.list.d/three.sources",
        "Types: deb\n# http://no.example\nURIs: http://three.example/debian\n  https://four.example/\nSuites: a\n\n"
        "Types: deb\nEnabled: no\nURIs: http://no.example/\n",
    )
    write("etc/apt/sources.list.d/five.disabled", "deb http://no.example a b\n")
    write("etc/apt/sources.list.d/six.list", "deb cdrom:[Disk]/ a b\ndeb mirror+http://six.example/list a b\n")
    found = group(machine, "@apt")
    assert set(found.hosts) == {
        "one.example:80",
        "two.example:443",
        "three.example:80",
        "four.example:443",
        "six.example:80",
    }
    assert len(found.notes) == 2


def test_git_gives_what_the_person_rewrites_to_and_signs_in_at_and_nothing_of_a_repository(
    machine: Machine, write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("home/.gitconfig", f'[url "https://me:{PASSWORD}@git.example/"]\n\tinsteadOf = https://up.example/\n')
    write("etc/gitconfig", '[credential "https://signed.example:8443"]\n\thelper = store\n[credential]\n\thelper = x\n')
    repository = write("home/project/.git/HEAD", "ref: refs/heads/main\n").parent.parent
    write("home/project/.git/config", '[url "https://evil.example/"]\n\tinsteadOf = https://up.example/\n')
    monkeypatch.chdir(repository)
    machine = replace(machine, search_path=("/usr/local/bin", "/usr/bin", "/bin"))
    found = group(machine, "@git", repositories=["https://named.example/x.git"])
    assert set(found.hosts) == {"git.example:443", "signed.example:8443", "named.example:443"}
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize("where", ["repository/bin", ".venv/bin", "node_modules/.bin"])
def test_no_program_that_a_repository_brought_is_ever_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    planted = tmp_path / where
    planted.mkdir(parents=True)
    (planted.parent / ("pyvenv.cfg" if ".venv" in where else "other")).touch()
    for name in ("npm", "git", "python3"):
        (planted / name).write_text(f"#!/bin/sh\n: > {tmp_path}/started\necho https://evil.example/\n")
        (planted / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{planted}:relative/bin:")
    open_machine = Machine(root=tmp_path, home=tmp_path, search_path=(str(planted),))
    find_groups(open_machine)
    assert (tmp_path / "started").exists(), "the attack does not work even without the guard"
    (tmp_path / "started").unlink()
    machine = this_machine(untrusted=[str(tmp_path / "repository")])
    assert machine.search_path == ()
    hosts = find_groups(machine)
    assert not (tmp_path / "started").exists()
    assert "evil.example:443" not in repr(hosts)


@pytest.mark.parametrize("script", ["exec sleep 600", "sleep 600 & wait"])
def test_a_tool_that_never_answers_is_not_waited_for(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setattr("gloveport.policy.reading.asking._PATIENCE", 0.2)
    machine = replace(machine, search_path=(str(tmp_path / "bin"), "/usr/bin", "/bin"))
    assert group(machine, "@npm").hosts == ()


def test_this_machines_own_groups_are_data_without_paths_or_users() -> None:
    for found in survey_groups(this_machine()):
        for host in found.hosts:
            name, _, port = host.rpartition(":")
            assert name
            assert 0 < int(port) < 65536
            assert not set(name) & set("/@ ")
