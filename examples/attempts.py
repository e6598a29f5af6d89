"""Several attempts at the same repository, side by side; the first that passes its check wins."""

import anyio

from gloveport import Manager, Sandbox, Settings, Source, Spec, shell_request

EDITS = ("echo wrong > answer.txt", "printf 42 > answer.txt", "rm -f answer.txt")
CHECK = 'test "$(cat answer.txt)" = 42'


async def attempt(manager: Manager, number: int, edit: str, passed: dict[int, bytes]) -> None:
    sandbox = Sandbox(await manager.create(Spec(source=Source(repo="."))))
    await sandbox.exec(shell_request(edit))
    outcome = await sandbox.exec(shell_request(CHECK))
    print(f"attempt {number}: {edit!r} ended with {outcome.exit.status}")
    if outcome.ok:
        passed[number] = (await sandbox.diff()).data


async def main() -> None:
    passed: dict[int, bytes] = {}
    async with Manager(Settings.load()) as manager, anyio.create_task_group() as tasks:
        for number, edit in enumerate(EDITS, start=1):
            tasks.start_soon(attempt, manager, number, edit, passed)
    print(passed[min(passed)].decode())


anyio.run(main)
