"""A server in the background, asked by a second command, and what all of it changed."""

import anyio

from gloveport import Sandbox, Source, Spec

ASK = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/hello.txt').read().decode())"


async def main() -> None:
    async with Sandbox.create(Spec(source=Source(repo="."))) as sandbox:
        await sandbox.files.write("hello.txt", "hello from the guest\n")
        async with sandbox.background(["python3", "-u", "-m", "http.server", "8000"]) as server:
            await server.until(b"Serving HTTP")
            answer = await sandbox.exec(["python3", "-c", ASK])
            print("the server said:", answer.text.strip())
        patch = await sandbox.diff()
        print("changed:", ", ".join(entry.path for entry in patch.paths))


anyio.run(main)
