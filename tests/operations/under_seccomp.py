#!/usr/bin/python3
"""Runs a command under a seccomp profile in Docker's format, as a container's runtime would load
it: under_seccomp.py PROFILE COMMAND... Needs Debian's python3-seccomp and nothing of Docker."""

import errno
import json
import os
import platform
import sys

import seccomp

COMPARISONS = {"SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}


def action(rule, default):
    if rule["action"] == "SCMP_ACT_ALLOW":
        return seccomp.ALLOW
    return seccomp.ERRNO(rule.get("errnoRet", default))


def argument(given):
    comparison = COMPARISONS[given["op"]]
    if comparison == seccomp.MASKED_EQ:
        return seccomp.Arg(given["index"], comparison, given["value"], given["valueTwo"])
    return seccomp.Arg(given["index"], comparison, given["value"])


def load(profile):
    native = "SCMP_ARCH_" + {"x86_64": "X86_64", "aarch64": "AARCH64"}[platform.machine()]
    if native not in [entry["architecture"] for entry in profile["archMap"]]:
        sys.exit(f"the profile has no {native}")
    default = profile.get("defaultErrnoRet", errno.EPERM)
    # The profile of a container counts for its command too: no exceptions for this process.
    filter = seccomp.SyscallFilter(seccomp.ERRNO(default))
    known = 0
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            try:
                filter.add_rule(action(rule, default), name, *map(argument, rule.get("args", [])))
                known += 1
            except (OSError, RuntimeError, ValueError):
                # A runtime ignores calls that its library or the machine does not have.
                print(f"unknown here: {name}", file=sys.stderr)
    if known < 100:
        sys.exit(f"only {known} calls of the profile are known: it is not a whole one")
    filter.load()


with open(sys.argv[1], encoding="utf-8") as file:
    load(json.load(file))
os.execvp(sys.argv[2], sys.argv[2:])
