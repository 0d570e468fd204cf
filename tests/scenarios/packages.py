"""The packages under test, made once in a run of the scenarios, out of the program under test."""

import atexit
import functools
import glob
import os
import shutil
import subprocess
import tempfile
import unittest

import tool

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
APPLIANCE = os.path.join(REPOSITORY, "scripts/appliance")
NATIVE = os.uname().machine
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf"}
FOREIGN = [machine for machine in DEBIAN_NAMES if machine != NATIVE]
QEMU_NAMES = {"armv7": "arm"}  # where it has another one


def make(binaries, out, *options, **environment):
    """Run scripts/package over the binaries in a folder."""
    argv = [os.path.join(REPOSITORY, "scripts/package"), "--from", binaries, "--out", out, *options]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode != 0:
        raise AssertionError(f"scripts/package: exit {done.returncode}: {done.stderr}")
    return out


@functools.cache
def binaries():
    """A folder with all: the program under test, and what scripts/build-static made for the other architectures."""
    kind = subprocess.run(["file", "-Lb", tool.BINARY], check=True, capture_output=True, text=True).stdout
    if "statically linked" not in kind and "static-pie linked" not in kind:
        raise unittest.SkipTest(f"packages hold static programs: --binary target/static/conntracker-{NATIVE}")
    folder = _folder()
    shutil.copy(tool.BINARY, os.path.join(folder, f"conntracker-{NATIVE}"))
    for machine in FOREIGN:
        foreign = os.path.join(REPOSITORY, f"target/static/conntracker-{machine}")
        if not os.path.exists(foreign):
            raise unittest.SkipTest(f"no program for {machine}: scripts/build-static --arch {machine}")
        shutil.copy(foreign, folder)
    return folder


@functools.cache
def made():
    """The folder of the packages."""
    return make(binaries(), _folder())


def deb(machine=NATIVE):
    return _only(f"conntracker_*_{DEBIAN_NAMES[machine]}.deb")


def tarball(machine=NATIVE):
    return _only(f"conntracker-*-{machine}.tar.gz")


@functools.cache
def newer_deb():
    """The same package in a version that comes later."""
    folder = _folder()
    tree, newer = os.path.join(folder, "tree"), os.path.join(folder, "newer.deb")
    subprocess.run(["dpkg-deb", "-R", deb(), tree], check=True)
    with open(os.path.join(tree, "DEBIAN/control"), "r+", encoding="utf-8") as control:
        text = control.read().replace("\nVersion: ", "\nVersion: 1:")
        control.seek(0)
        control.write(text)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, newer], check=True, capture_output=True)
    return newer


def unpack(folder):
    """What is in the tar.gz, by busybox's tar; returns the folder in it."""
    subprocess.run(["busybox", "tar", "xzf", tarball(), "-C", folder], check=True)
    (name,) = (name for name in os.listdir(folder) if name.startswith("conntracker-"))
    return os.path.join(folder, name)


def _only(pattern):
    (path,) = glob.glob(os.path.join(made(), pattern))
    return path


def _folder():
    """One that is gone when the run of the scenarios ends, however it does."""
    folder = tempfile.mkdtemp(prefix="conntracker-packages-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
