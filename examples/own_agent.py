"""An agent loop of your own: the five standard tools with their schemas, and calls that a model would make."""

import anyio

from gloveport import Sandbox, Source, Spec
from gloveport.tools.standard import TOOLS, call_tool

CALLS = (
    ("search", {"pattern": "TODO"}),
    ("file_write", {"path": "done.txt", "content": "nothing left\n"}),
    ("shell", {"command": "cat done.txt && exit 3"}),
    ("git", {"subcommand": "status", "args": "--short"}),
)


async def main() -> None:
    for tool in TOOLS.values():
        print(f"{tool.usage()}: {tool.description}")
    async with Sandbox.create(Spec(source=Source(repo="."))) as sandbox:
        for name, params in CALLS:
            result = await call_tool(sandbox, name, params)
            print(f"{name} -> {result.exit_code}: {result.output.strip()}")


anyio.run(main)
