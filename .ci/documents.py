"""Runs the commands of documents as they stand, in their order, and fails where one does not do what its mark says.

    python3 .ci/documents.py DOCUMENT…

A mark is a line of its own above a block of `sh`:

    <!-- run -->                 the block has to end with exit code 0
    <!-- run: ends with 67 -->   with this one
    <!-- run: until TEXT -->     it goes on; the next block begins when TEXT was printed
    <!-- not run: REASON -->     somebody else runs it, or nobody can

An id that is cut short (`dlv_…`) is one that an earlier block printed; files in /tmp are in a folder of the run. It
belongs into a network of its own, because documents name the default ports.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 60
MARK = re.compile(r"<!-- run(?:: (?P<how>ends with|until) (?P<what>.+))? -->")


class Block:
    """Commands with their mark."""

    def __init__(self, document, line, how, what, commands):
        self.where = f"{document}:{line}"
        self.how, self.what, self.commands = how, what, commands


def blocks_of(document):
    lines = pathlib.Path(document).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        mark = MARK.fullmatch(line)
        if not mark:
            continue
        if lines[number + 1 : number + 3] != ["", "```sh"]:
            sys.exit(f"{document}:{number + 1}: no block of sh follows the mark")
        end = lines.index("```", number + 3)
        yield Block(document, number + 4, mark["how"], mark["what"], "\n".join(lines[number + 3 : end]))


class Run:
    """The processes of one document, in one folder, with all that they printed."""

    def __init__(self, folder):
        self.folder, self.printed, self.going_on = folder, "", []

    def perform(self, block):
        commands = block.commands.replace("/tmp/", f"{self.folder}/")
        for prefix in re.findall(r"([a-z]+_)…", commands):
            ids = re.findall(prefix + r"[0-9a-z]{8,}", self.printed)
            if not ids:
                sys.exit(f"{block.where}: nothing printed an id that begins with {prefix}")
            commands = commands.replace(f"{prefix}…", ids[-1])
        if block.how == "until":
            self.start(block, commands)
        else:
            self.finish(block, commands)

    def finish(self, block, commands):
        expected = int(block.what) if block.how else 0
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.printed += done.stdout
        if done.returncode != expected:
            sys.exit(f"{block.where} ended with {done.returncode}, not {expected}:\n{commands}\n{done.stdout}")

    def start(self, block, commands):
        log = self.folder / f"{len(self.going_on)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                # The shell becomes the program, so that the signal at the end reaches it.
                ["bash", "-c", re.sub(r"(\S+=\S+ )*", r"\g<0>exec ", commands, count=1)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.going_on.append((block, process))
        end = time.monotonic() + PATIENCE_S
        while block.what not in log.read_text(encoding="utf-8"):
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{block.where} never printed {block.what}:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.05)

    def stop(self):
        """Ctrl-C, the latest first; each has to end well."""
        for block, process in reversed(self.going_on):
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code != 0:
                sys.exit(f"{block.where} ended with {code} after Ctrl-C")


def main():
    for document in sys.argv[1:]:
        blocks = list(blocks_of(document))
        if not blocks:
            sys.exit(f"{document} has no block to run")
        with tempfile.TemporaryDirectory() as folder:
            run = Run(pathlib.Path(folder))
            try:
                for block in blocks:
                    run.perform(block)
                    print(f"ok  {block.where}", flush=True)
            finally:
                run.stop()


if __name__ == "__main__":
    os.umask(0o077)
    main()
