"""Without an event loop: the same handle, waiting for each result."""

from gloveport import Source, Spec, blocking_sandbox

with blocking_sandbox(Spec(source=Source(repo="."))) as sandbox, sandbox.shell() as shell:
    shell.exec("mkdir -p deep/down && cd deep/down && NAME=world")
    print(shell.exec('echo "hello $NAME from $PWD"').text.strip())
