"""The names, descriptions and schemas of Claude Code's six working tools, as a sandbox offers them."""

from __future__ import annotations

from collections.abc import Mapping

from gloveport.tools.schema import Parameter, Tool, catalogue

__all__ = ["CLAUDE_TOOLS", "DEFAULT_HEAD", "LONGEST_BACKGROUND_MS", "LONGEST_BASH_MS", "MATCH_MODES"]

LONGEST_BASH_MS = 600_000
LONGEST_BACKGROUND_MS = 7_200_000
DEFAULT_HEAD = 250
"""Lines or files that one Grep shows unless told otherwise."""
MATCH_MODES = ("content", "files_with_matches", "count")

_BASH = Tool(
    name="Bash",
    description=(
        "Runs a bash command in the sandbox and returns its output, standard error included.\n\n"
        "- The working directory carries over to the next call; variables and functions do not.\n"
        "- The command reads no terminal: interactive flags such as `git add -i` do not work.\n"
        f"- `timeout` is in milliseconds: 120000 by default, at most {LONGEST_BASH_MS}. Then the command and all it "
        "started are killed.\n"
        "- `run_in_background` returns at once; the output goes to a file that the result names. "
        "Use it for servers and watchers, without `&`.\n"
        "- Output beyond 30000 characters is shortened in its middle.\n"
        "- Prefer Read, Edit, Glob and Grep to `cat`, `sed`, `find` and `grep`.\n"
        "- The sandbox may have no network."
    ),
    parameters=(
        Parameter(name="command", type="string", description="The command to execute", required=True),
        Parameter(
            name="timeout",
            type="number",
            description=f"Milliseconds the command may take (at most {LONGEST_BASH_MS} in the foreground)",
            minimum=1,
        ),
        Parameter(
            name="description",
            type="string",
            description="What the command does, in five to ten plain words and in active voice",
        ),
        Parameter(
            name="run_in_background",
            type="boolean",
            description="Run the command in the background; `timeout` then limits how long it may run there "
            f"(1800000 by default, at most {LONGEST_BACKGROUND_MS})",
        ),
    ),
)

_READ = Tool(
    name="Read",
    description=(
        "Reads a text file of the sandbox.\n\n"
        "- `file_path` should be absolute.\n"
        "- Returns up to 2000 lines from the beginning unless `offset` and `limit` say otherwise; lines beyond 2000 "
        "characters are cut.\n"
        "- Each line comes as its number (from 1), a tab and its text.\n"
        "- Directories and binary files are errors: use Glob, or Bash."
    ),
    parameters=(
        Parameter(name="file_path", type="string", description="The absolute path to the file to read", required=True),
        Parameter(
            name="offset",
            type="integer",
            description="The line to start at, for files too large for one call",
            minimum=0,
        ),
        Parameter(
            name="limit",
            type="integer",
            description="How many lines to read, for files too large for one call",
            minimum=1,
        ),
    ),
    read_only=True,
)

_WRITE = Tool(
    name="Write",
    description=(
        "Writes a whole file of the sandbox, replacing what is there and making missing directories.\n\n"
        "An existing file must have been Read in this conversation first. For partial changes use Edit."
    ),
    parameters=(
        Parameter(
            name="file_path",
            type="string",
            description="The absolute path to the file to write (must be absolute, not relative)",
            required=True,
        ),
        Parameter(name="content", type="string", description="The content to write to the file", required=True),
    ),
)

_EDIT = Tool(
    name="Edit",
    description=(
        "Replaces an exact string in a file of the sandbox.\n\n"
        "- The file must have been Read in this conversation first.\n"
        "- `old_string` must match the file exactly, indentation included, and be unique; leave out the line number "
        "and tab that Read puts before each line.\n"
        "- `replace_all` replaces every occurrence."
    ),
    parameters=(
        Parameter(
            name="file_path", type="string", description="The absolute path to the file to modify", required=True
        ),
        Parameter(name="old_string", type="string", description="The text to replace", required=True),
        Parameter(
            name="new_string",
            type="string",
            description="The text to replace it with (must be different from old_string)",
            required=True,
        ),
        Parameter(
            name="replace_all", type="boolean", description="Replace all occurrences of old_string", default=False
        ),
    ),
)

_GLOB = Tool(
    name="Glob",
    description=(
        "Finds files of the sandbox by a glob pattern such as `**/*.js` or `src/**/*.ts`, oldest first, at most 100."
    ),
    parameters=(
        Parameter(name="pattern", type="string", description="The glob pattern to match files against", required=True),
        Parameter(
            name="path",
            type="string",
            description="The directory to search in; leave it out for the current working directory",
        ),
    ),
    read_only=True,
)

_GREP = Tool(
    name="Grep",
    description=(
        "Searches file contents of the sandbox with ripgrep.\n\n"
        '- Full regular expressions, such as "log.*Error"; escape literal braces (`interface\\{\\}`).\n'
        "- Filter by `glob` or `type`.\n"
        "- `output_mode`: `content` (matching lines), `files_with_matches` (paths only, the default) or `count`.\n"
        "- `multiline: true` for patterns that span lines."
    ),
    parameters=(
        Parameter(name="pattern", type="string", description="The regular expression to search for", required=True),
        Parameter(
            name="path",
            type="string",
            description="File or directory to search in; the current working directory otherwise",
        ),
        Parameter(name="glob", type="string", description='Glob to filter files by, such as "*.js" or "*.{ts,tsx}"'),
        Parameter(
            name="output_mode",
            type="string",
            description="What to show of the matches; files_with_matches by default",
            choices=MATCH_MODES,
        ),
        Parameter(name="-B", type="number", description="Lines to show before each match (content only)", minimum=0),
        Parameter(name="-A", type="number", description="Lines to show after each match (content only)", minimum=0),
        Parameter(name="-C", type="number", description="The same as `context`", minimum=0),
        Parameter(
            name="context",
            type="number",
            description="Lines to show before and after each match (content only)",
            minimum=0,
        ),
        Parameter(name="-n", type="boolean", description="Show line numbers (content only); true by default"),
        Parameter(name="-i", type="boolean", description="Ignore case"),
        Parameter(name="-o", type="boolean", description="Show only the matched parts (content only)"),
        Parameter(name="type", type="string", description="ripgrep's file type, such as js, py, rust, go, java"),
        Parameter(
            name="head_limit",
            type="number",
            description=f"Show at most this many lines or files; {DEFAULT_HEAD} by default, 0 for all",
            minimum=0,
        ),
        Parameter(name="offset", type="number", description="Skip this many lines or files first", minimum=0),
        Parameter(name="multiline", type="boolean", description="Let patterns span lines and `.` match line ends"),
    ),
    read_only=True,
)

CLAUDE_TOOLS: Mapping[str, Tool] = catalogue(_BASH, _READ, _WRITE, _EDIT, _GLOB, _GREP)
"""The tools by name."""
