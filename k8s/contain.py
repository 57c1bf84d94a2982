"""Runs a program as a container runtime would run the pod's container, for the check of that.

    unshare --mount python3 k8s/contain.py ROOT [--mount SOURCE:TARGET[:ro]]… [--env NAME=VALUE]… -- PROGRAM ARGUMENT…

ROOT becomes the whole file system, read-only; only mounts without `ro` can be written. The program runs as user and
group 65532 with no capability, none to be had again, and no environment but what is given. It takes the place of this
process, so it has its id. What a runtime adds and this does not: the seccomp profile, and limits of memory.
"""

import argparse
import ctypes
import os
import pathlib
import sys

USER = 65532
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38

libc = ctypes.CDLL(None, use_errno=True)


def must(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def bind(source, target, read_only):
    must(libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None))
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    must(libc.mount(None, os.fsencode(target), None, flags, None))


class Mount:
    """A place of the host inside of the root: SOURCE:TARGET[:ro]."""

    def __init__(self, argument):
        source, target, *options = argument.split(":")
        self.source, self.target = pathlib.Path(source), target.lstrip("/")
        self.read_only = options == ["ro"]

    def prepare(self, root):
        inside = root / self.target
        inside.parent.mkdir(parents=True, exist_ok=True)
        if self.source.is_dir():
            inside.mkdir(exist_ok=True)
        else:
            inside.touch()


def enter(root, mounts):
    """Makes the root the whole file system; what is mounted gets its place before nothing can be written."""
    (root / "proc").mkdir(exist_ok=True)
    for one in mounts:
        one.prepare(root)
    bind(root, root, read_only=True)
    os.chdir(root)
    for one in mounts:
        bind(one.source.resolve(), one.target, one.read_only)
    must(libc.mount(b"/proc", b"proc", None, MS_BIND | MS_REC, None))
    os.chroot(".")
    os.chdir("/")


def give_up_rights():
    capability = 0
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        must(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
        capability += 1
    os.setgroups([USER])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--mount", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("program", nargs="+")
    chosen = parser.parse_args()
    enter(chosen.root.resolve(), [Mount(argument) for argument in chosen.mount])
    give_up_rights()
    os.execve(chosen.program[0], chosen.program, dict(pair.split("=", 1) for pair in chosen.env))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"could not contain the program: {error}")
