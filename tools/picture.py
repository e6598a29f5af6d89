"""Take the README's picture: run the demo on a real terminal and export what it shows as SVG."""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "demo.svg"
WIDTH = 118
HIDDEN = {str(ROOT): "~/gloveport", str(Path.home()): "~"}


def record() -> bytes:
    """Everything the demo prints on a terminal."""
    seen = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        seen.extend(data)
        return data

    os.environ |= {"COLUMNS": str(WIDTH), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    status = pty.spawn([sys.executable, str(ROOT / "examples/demo/run.py")], read)
    if status:
        sys.exit(f"the demo failed: {status}")
    return bytes(seen)


def main() -> None:
    """Write docs/demo.svg."""
    text = record().decode("utf-8", "replace").replace("\r\n", "\n")
    for path, shown in HIDDEN.items():
        text = text.replace(path, shown)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text))
    console.save_svg(str(OUT), title="make demo")
    print(f"wrote {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
