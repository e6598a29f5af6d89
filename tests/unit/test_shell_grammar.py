"""A bash text is read to every simple command in it; what cannot be known is said, never guessed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloveport.policy.commands.shell_grammar import LONGEST_TEXT, Position, read_argv, read_shell

SECRET = "evil --now"
HIDDEN_IN = (
    "ls; evil --now",
    "ls && evil --now",
    "ls || evil --now",
    "ls | evil --now",
    "ls |& evil --now",
    "ls & evil --now",
    "ls\nevil --now",
    "! evil --now",
    "echo $(evil --now)",
    'echo "$(evil --now)"',
    "echo `evil --now`",
    'echo "`evil --now`"',
    "echo <(evil --now)",
    "ls > >(evil --now)",
    "ls > $(evil --now)",
    "cat <<< $(evil --now)",
    "cat <<E\n$(evil --now)\nE",
    "(evil --now)",
    "{ evil --now; }",
    "if evil --now; then ls; fi",
    "if ls; then :; else evil --now; fi",
    "while evil --now; do ls; done",
    "until ls; do evil --now; done",
    "for x in a b; do evil --now; done",
    "for x in $(evil --now); do ls; done",
    "for ((i=$(evil --now); i<1; i++)); do ls; done",
    "case x in x) evil --now;; esac",
    "case $(evil --now) in x) ls;; esac",
    "f() { evil --now; }; f",
    "function f { evil --now; }",
    "ls() ( evil --now )",
    "X=$(evil --now)",
    "X=$(evil --now) ls",
    "X=(a $(evil --now))",
    "X[$(evil --now)]=1",
    "echo ${X:-$(evil --now)}",
    "echo ${X/a/$(evil --now)}",
    "echo $((1 + $(evil --now)))",
    "[[ -n $(evil --now) ]]",
    "[ -n $(evil --now) ]",
    "(( x = $(evil --now) ))",
    "export X=$(evil --now)",
    "coproc evil --now",
    "time evil --now",
    "time -p evil --now",
    "eval evil --now",
    "eval 'evil --now'",
    "eval 'evil' \"--now\"",
    "sh -c 'evil --now'",
    'bash -c "evil --now" ls',
    "bash -exc 'evil --now'",
    "/bin/bash --norc --noprofile -c 'evil --now'",
    "bash -o pipefail -c 'evil --now'",
    "dash -c 'sh -c \"evil --now\"'",
    "bash -c 'eval \"$1\"' ls 'evil --now'",
    "bash <<E\nevil --now\nE",
    "bash <<-'E'\n\tevil --now\n\tE",
    "sh -s <<< 'evil --now'",
    "env evil --now",
    "env -i A=b -u C evil --now",
    "env --unset=C -C /tmp evil --now",
    "nohup evil --now",
    "timeout 5 evil --now",
    "timeout -k 1 -s KILL 5 evil --now",
    "timeout --signal=KILL 5 evil --now",
    "nice -n 5 evil --now",
    "nice -5 evil --now",
    "setsid -f evil --now",
    "stdbuf -oL evil --now",
    "command evil --now",
    "command -p evil --now",
    "builtin evil --now",
    "exec evil --now",
    "exec -a ls evil --now",
    "busybox evil --now",
    "sudo -n -u root evil --now",
    "find . -exec evil --now \\;",
    "find . -name x -execdir evil --now {} +",
    "find . -ok evil --now ';'",
    "find . -exec sh -c 'evil --now' \\;",
    "ls | xargs evil --now",
    "ls | xargs -0 -n 1 -P4 evil --now",
    "xargs -I{} sh -c 'evil --now'",
    "xargs --max-args=1 evil --now",
    "trap 'evil --now' EXIT",
    "trap -- 'evil --now' INT",
    ">f evil --now",
    "2>&1 evil --now >f",
    "<f evil >g --now",
    "X=1 Y=2 evil --now",
    "ev''il --now",
    "e\\vil --now",
    '"evil" --now',
    "$'\\x65vil' --now",
    "env timeout 3 nice setsid sh -c 'eval \"evil --now\"'",
    "ls # nothing\nevil --now",
    "ls \\\n; evil --now",
)


def told(text: str) -> list[str]:
    return [" ".join(word.text for word in command.words) for command in read_shell(text).commands]


@pytest.mark.parametrize("text", HIDDEN_IN)
def test_a_command_is_found_wherever_it_hides(text: str) -> None:
    found = [line for line in told(text) if line.startswith(SECRET)]
    assert found, told(text)


@pytest.mark.parametrize(
    "text",
    [
        'eval "$X"',
        'sh -c "$X"',
        'sh -c "ls $X"',
        "curl x | sh",
        "echo evil | bash -s",
        "bash <(curl x)",
        "bash < script",
        "bash",
        "bash -i",
        ". /dev/stdin",
        "source <(curl x)",
        "env $X ls",
        "env -S 'evil now'",
        "timeout $X evil",
        "xargs $X evil",
        "find . $X evil \\;",
        'trap "$X" EXIT',
        "bash --rcfile x -c ls",
        "bash <<E\n$X\nE",
        "bash -c 'f() { eval \"$1\"; }; f evil' ls ls",
        "bash -c 'shift; eval \"$1\"' ls ls evil",
        "bash -c 'set -- evil; eval \"$1\"' ls ls",
        "bash -c 'while :; do eval \"$1\"; done' ls 'set -- evil'",
        "if ls; then",
        "echo 'open",
        "$((ls) )",
        "cat <<E\n`evil`\nE",
        "echo `echo \\`evil\\``",
        "ev\\\nil",
        "ls\x0bevil",
        "ls\u00a0evil",
        "ls\revil",
        "ls \u202e evil",
        "X='a[$(evil)]'; ((X))",
        "[[ 'a[$(evil)]' -eq 0 ]]",
        "time { evil; }",
        "coproc X { evil; }",
        "xargs --unknown evil",
        "ls\0evil",
    ],
)
def test_what_only_the_running_shell_knows_is_said(text: str) -> None:
    assert read_shell(text).hidden, told(text)


@pytest.mark.parametrize(
    "text",
    ["PATH=. ls", "export PATH=/x:$PATH", "LD_PRELOAD=x ls", "env GIT_SSH_COMMAND=x git fetch",
     "for PATH in x; do ls; done",
     "declare -n r=PATH", "declare 'PATH=x'", "echo ${PATH:=x}", "BASH_ENV=x bash -c ls", "bash -lc ls", "local IFS=x",
     "GIT_PAGER=x git log"],
)  # fmt: skip
def test_what_changes_the_meaning_of_names_is_said(text: str) -> None:
    assert read_shell(text).redefined


@pytest.mark.parametrize(
    "text",
    [
        "ls -la /workspace | grep -v 'a b' > out.txt 2>&1",
        'for f in *.py; do python3 -m py_compile "$f" || exit 1; done',
        'cd src && make -j4 CC=gcc && ./run --name="a $HOME b"',
        "git commit -m 'fix: `code` and $(money)' && git log --format='%h %s' | head -5",
        "cat > x.py <<'E'\nprint(`1`, $(x))\nE\npython3 x.py",
        "if [ -f x ]; then echo yes; elif test -d y; then echo no; fi",
        "find . -name '*.pyc' -delete; find \"$DIR\" -type f",
        "echo $PATH; export FOO=bar; X=1 pytest -q",
        'while read -r line; do echo "$line"; done < file',
        "a=(1 2 3); echo ${a[@]} ${#a[@]} $((1 + 2))",
        'test -n "$X" && printf \'%s\\n\' "$X"',
        "exec 3>&1; trap - INT; command -v git",
    ],
)
def test_ordinary_work_is_read_without_a_doubt(text: str) -> None:
    reading = read_shell(text)
    assert not reading.hidden
    assert not reading.redefined


def test_words_are_what_the_shell_makes_of_them() -> None:
    for text in (
        "printf '%s\\0' a\\ b 'c d' \"e f\" \"\" g\"h\"'i' \\$x \"\\$y\\n\" '$z' $'t\\tu\\x41\\'' j=k",
        "printf '%s\\0' -- \"a\\\\b\" 'q'\\''r'",
        'printf \'%s\\0\' "  two  " "a\\"b" "$" a#b "it\'s" \\\'',
    ):
        said = subprocess.run(["bash", "-c", text], capture_output=True, check=True, timeout=30).stdout.decode()
        words = read_shell(text).commands[0].words
        assert all(word.is_known for word in words)
        assert [word.text for word in words[2:]] == said.split("\0")[:-1]


def test_a_word_that_becomes_something_else_is_not_known() -> None:
    words = read_shell('x $a "$a" "$@" *.py ~/x {a,b} <(c) $(d) "e$(f)" [ab]').commands[0].words
    assert [(word.is_known, word.is_many) for word in words[1:]] == [
        (False, True), (False, False), (False, True), (False, True), (False, False), (False, True), (False, False),
        (False, True), (False, False), (False, True),
    ]  # fmt: skip


def test_a_command_says_where_it_stands_and_what_runs_it() -> None:
    reading = read_shell("ls &&\n  env sh -c 'id;\n rm x'")
    found = {command.program: command for command in reading.commands}
    assert found["env"].position == Position(2, 3)
    assert found["rm"].position == Position(2, 2)
    assert found["rm"].within == ("env", "sh")
    assert found["env"].is_mere
    assert not found["rm"].is_mere
    assert read_shell("ls\nif x; then").hidden[0].position.line == 2


def test_redirections_say_which_files_are_written() -> None:
    reading = read_shell('ls >a 2>>b &>c <d 2>&1 >/dev/null >"$X"; { id; } >e; >f')
    assert reading.commands[0].writes == ("a", "b", "c", '"$X"')


def test_the_script_that_is_fed_names_who_feeds_it() -> None:
    assert read_shell("curl -s x | tee y | sh").hidden[0].fed_by == ("curl", "tee")
    assert read_shell('bash -c "$(wget -O- x)"').hidden[0].fed_by == ("wget",)


def test_an_argument_list_is_one_command_and_what_it_runs() -> None:
    reading = read_argv(["env", "bash", "-c", "ls | wc", "$X"])
    assert [command.program for command in reading.commands] == ["env", "bash", "ls", "wc"]
    assert read_argv(["echo", "$(evil); `evil` | evil"]).commands[0].words[1].is_known
    assert len(read_argv(["echo", "$(evil)"]).commands) == 1


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "$(" * 5000 + ")" * 5000, "ls && " * 3000 + "ls", "{" * 9000, "eval " * 3000 + "ls", "`" * 5001,
     "\"" * 4001, "a" * (LONGEST_TEXT + 1), "sh -c '" * 40, "env " * 2000 + "ls", "if " * 3000, "<<E " * 2000,
     "a=(" * 3000],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_deep_and_long_texts_are_read_or_refused(text: str) -> None:
    reading = read_shell(text)
    assert reading.commands or reading.hidden


PIECES = st.sampled_from(
    ["ls", "$(", ")", "`", "'", '"', "|", "&&", ";", "\n", "<<E", "E", "{", "}", "(", " ", "$x", "${", "eval", "sh -c",
     "env", "xargs", "find . -exec", "\\;", "\\", "[[", "]]", "((", "))", "if", "then", "fi", "for x in", "do", "done",
     ">", "<", "&", "#", "*", "~", "=", "A=1", "trap", "timeout 5", "-c", "--", "\0", "é", "\udc80", "$'", "\\x41"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES).map(" ".join), st.lists(PIECES).map("".join)))
def test_reading_never_raises_on_any_text(text: str) -> None:
    read_shell(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), PIECES), max_size=12))
def test_reading_never_raises_on_any_argument_list(argv: list[str]) -> None:
    read_argv(argv)


WORDS = st.lists(
    st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12), min_size=1
)


@settings(max_examples=100, deadline=None)
@given(WORDS)
def test_quoted_words_are_read_back_as_they_were(words: list[str]) -> None:
    import shlex

    reading = read_shell(shlex.join(["cat", *words]))
    assert not reading.hidden
    assert [word.text for word in reading.commands[0].words] == ["cat", *words]
    assert all(word.is_known for word in reading.commands[0].words)


def test_no_parser_is_imported_before_a_text_is_read() -> None:
    program = (
        "import sys, gloveport.policy, gloveport.policy.commands.exec_rules, gloveport.sandbox;"
        "sys.exit(any(name.startswith('tree_sitter') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_characters_beyond_the_grammars_tables_end_no_process() -> None:
    """The C scanner crashed on some of these, so they are read in a process of their own."""
    program = """
import random
from gloveport.policy.commands.shell_grammar import read_shell
chance = random.Random(2)
pieces = ["$(", ")", "`", "'", '"', "|", ";", "{", "}", "(", " ", "$x", "${", "[[", "=~", "<<E", "[", "="]
for _ in range(6000):
    wide = [chr(chance.choice([chance.randrange(256, 0xD800), chance.randrange(0x10000, 0x110000)])) for _ in range(6)]
    read_shell("".join(chance.choice(pieces + wide) for _ in range(chance.randrange(1, 12))))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_letters_of_any_script_stay_what_they_are() -> None:
    words = read_shell("ls 'Grüße 世界' \"😀 $\" naïve.txt żółw").commands[0].words
    assert [word.text for word in words] == ["ls", "Grüße 世界", "😀 $", "naïve.txt", "żółw"]
    assert all(word.is_known for word in words)
