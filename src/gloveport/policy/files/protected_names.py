"""The built-in list of files that a host acts on, or trusts, without being asked, and why each is on it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BUILT_IN", "NamedRule"]


class NamedRule(NamedTuple):
    """Names that share one reason."""

    names: str
    """Separated by blanks, in lower case. A `/` stands between directories, `*.x` for any name that ends so; a name
    covers what is below it, and stands at any depth.
    """
    reason: str
    refused: bool = True
    """Whether a patch that touches one needs an explicit flag; otherwise it is only told."""


_GIT_HOOKS = (
    "applypatch-msg commit-msg fsmonitor-watchman post-applypatch post-checkout post-commit post-index-change "
    "post-merge post-receive post-rewrite post-update pre-applypatch pre-auto-gc pre-commit pre-merge-commit pre-push "
    "pre-rebase pre-receive prepare-commit-msg proc-receive push-to-checkout reference-transaction sendemail-validate "
    "update"
)
"""Programs that git runs by their name."""

BUILT_IN: tuple[NamedRule, ...] = (
    # What runs when a person opens a shell, a directory or a desktop.
    NamedRule(
        ".bash_aliases .bash_login .bash_logout .bash_profile .bashrc .cshrc .kshrc .login .logout .mkshrc .profile "
        ".shrc .tcshrc .zlogin .zlogout .zprofile .zshenv .zshrc .oh-my-zsh .zsh .xonshrc config.fish fish/conf.d "
        "fish/functions .config/fish .config/nushell .config/powershell microsoft.powershell_profile.ps1 profile.ps1",
        "a shell runs it when it starts, where this tree is a home or is linked into one",
    ),
    NamedRule(
        ".envrc .direnvrc .config/direnv .autoenv .autoenv.zsh",
        "direnv or its like runs it when a shell enters the directory",
    ),
    NamedRule(
        ".inputrc .pam_environment .xinitrc .xprofile .xsession .xsessionrc .config/autostart .config/environment.d "
        ".config/systemd .local/bin .local/share/applications .local/share/systemd",
        "a login or a desktop runs or obeys it, where this tree is a home",
    ),
    NamedRule(
        ".curlrc .gdbinit .ghci .irbrc .lldbinit .pdbrc .pryrc .psqlrc .rprofile .screenrc .sqliterc .tmux.conf "
        ".wgetrc .config/tmux",
        "a program obeys it whenever it is started in this directory or home",
    ),
    # Git.
    NamedRule(
        ".git *.git/config *.git/config.worktree *.git/hooks *.git/info *.git/modules *.git/worktrees",
        "git obeys its settings and runs its hooks",
    ),
    NamedRule(".gitconfig .config/git", "git obeys it: it names programs to run"),
    NamedRule(".gitmodules", "git fetches from where it says when submodules are updated"),
    NamedRule(
        " ".join([".githooks .git-hooks .husky .lefthook", *(f"hooks/{name}" for name in _GIT_HOOKS.split())]),
        "git runs it where core.hooksPath points there",
    ),
    # Editors.
    NamedRule(
        ".vscode *.code-workspace .idea .fleet .zed .nova *.sublime-project",
        "an editor runs or obeys it when the folder is opened",
    ),
    NamedRule(
        ".vim .vimrc _vimrc .gvimrc .exrc _exrc .nexrc .lvimrc .local.vimrc .nvim .nvimrc .nvim.lua .config/nvim "
        ".emacs .emacs.d .config/emacs .dir-locals.el .dir-locals-2.el .spacemacs .doom.d .config/doom .helix "
        ".config/helix",
        "an editor runs or obeys it when it is started, or opens a file, here",
    ),
    NamedRule(".devcontainer .devcontainer.json", "the editor runs its initializeCommand on the host"),
    # Agents.
    NamedRule(".mcp.json mcp.json", "coding agents start the servers it names"),
    NamedRule(
        ".agents .aider.conf.yml .amazonq .claude .claude.json .codex .continue .cursor .gemini .goose .junie .kiro "
        ".opencode opencode.json opencode.jsonc .roo .windsurf",
        "a coding agent takes permissions, hooks, servers or instructions from it",
    ),
    # Credentials, and who is trusted with them.
    NamedRule(".ssh", "ssh trusts its keys and runs the commands of its settings"),
    NamedRule(
        ".npmrc .yarnrc .yarnrc.yml .pypirc .pip .config/pip .config/npm .config/yarn .condarc",
        "a package manager takes its registry, credentials and programs to run from it",
    ),
    NamedRule(
        ".netrc _netrc .git-credentials .aws/config .aws/credentials .docker/config.json .docker/cli-plugins "
        ".kube/config .gnupg .config/gh .config/gcloud .terraformrc .vault-token",
        "programs take credentials, and some of them commands, from it",
    ),
    # What is told and not refused: it acts later, elsewhere, or only as far as somebody asks.
    NamedRule(
        ".github/workflows .github/actions .gitlab-ci.yml .gitlab/ci .circleci .travis.yml .buildkite .drone.yml "
        ".forgejo/workflows .gitea/workflows .woodpecker .woodpecker.yml .woodpecker.yaml appveyor.yml .appveyor.yml "
        "azure-pipelines.yml bitbucket-pipelines.yml jenkinsfile",
        "CI runs it, with the secrets of the repository",
        refused=False,
    ),
    NamedRule("codeowners .github/dependabot.yml", "it says who must review a change", refused=False),
    NamedRule(
        ".pre-commit-config.yaml .pre-commit-config.yml .pre-commit-hooks.yaml lefthook.yml lefthook.yaml "
        ".lefthook.yml .lefthookrc .overcommit.yml .huskyrc .huskyrc.json .lintstagedrc .lintstagedrc.json",
        "it names what runs at the next commit",
        refused=False,
    ),
    NamedRule(
        "agents.md claude.md claude.local.md gemini.md .cursorrules .windsurfrules .clinerules .goosehints "
        ".github/copilot-instructions.md .github/instructions",
        "the next agent takes it for instructions",
        refused=False,
    ),
    NamedRule(
        ".mise.toml mise.toml .mise .rtx.toml .tool-versions .cargo/config .cargo/config.toml .bazelrc .pnpmfile.cjs "
        "pip.conf pip.ini sitecustomize.py usercustomize.py",
        "a build tool or an interpreter obeys it before it does what it is asked",
        refused=False,
    ),
)
