"""What of a tool's settings a guest is told: addresses, and never what could be a credential."""

from __future__ import annotations

import pytest

from gloveport.policy.reading.carrying import carried, carried_rewrites
from gloveport.policy.reading.package_sources import Sources

PASSWORD = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("https://mirror.example/simple", "https://mirror.example/simple"),
        (
            f"https://me:{PASSWORD}@mirror.example:8443/api/pypi/all/simple/",
            "https://mirror.example:8443/api/pypi/all/simple/",
        ),
        (f"https://{PASSWORD}@mirror.example/simple", "https://mirror.example/simple"),
        (f"https://mirror.example/simple?token={PASSWORD}#{PASSWORD}", "https://mirror.example/simple"),
        (
            f"http://[2001:db8::1]:8080/s\nhttps://me:{PASSWORD}@b.example/s",
            "http://[2001:db8::1]:8080/s https://b.example/s",
        ),
        ("https://mirror.example/Ab3dEf6hIj9kLm2n/simple", None),
        (f"https://me:12/{PASSWORD}@mirror.example/simple", None),
        ("https://mirror.example:none/simple", None),
        ("/srv/wheels file:///srv/wheels ssh://mirror.example/simple", None),
    ],
)
def test_an_address_is_told_without_credentials_or_not_at_all(said: str, told: str | None) -> None:
    found = carried(Sources(variables={"PIP_INDEX_URL": said}))
    assert found == ({} if told is None else {"PIP_INDEX_URL": told})


def test_what_may_be_a_token_in_a_path_is_noted_without_being_shown() -> None:
    sources = Sources(variables={"npm_config_registry": "https://mirror.example/Ab3dEf6hIj9kLm2n/"})
    assert carried(sources) == {}
    assert sources.notes == ["not told to guests: an address whose path may hold a token"]


def test_an_index_of_uv_keeps_its_name() -> None:
    sources = Sources(variables={"UV_INDEX": f"corp=https://me:{PASSWORD}@mirror.example/simple"})
    assert carried(sources) == {"UV_INDEX": "corp=https://mirror.example/simple"}


def test_trusted_hosts_are_hosts() -> None:
    sources = Sources(variables={"PIP_TRUSTED_HOST": f"mirror.example:8080 me:{PASSWORD}@mirror.example"})
    assert carried(sources) == {"PIP_TRUSTED_HOST": "mirror.example:8080"}


def test_git_rewrites_what_it_rewrites_here() -> None:
    said = [
        (f"https://me:{PASSWORD}@git.example/", "https://code.example/"),
        ("ssh://git@git.example/", "https://other.example/"),
        ("https://git.example/team/", "team:"),
    ]
    assert carried_rewrites(said, []) == {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "url.https://git.example/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://code.example/",
        "GIT_CONFIG_KEY_1": "url.https://git.example/team/.insteadOf",
        "GIT_CONFIG_VALUE_1": "team:",
    }
    assert carried_rewrites([], []) == {}
