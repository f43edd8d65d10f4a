#!/usr/bin/python3
"""Gives QEMU a command of its monitor.

  qmp.py SOCKET COMMAND...

Prints what the monitor says to it.  Exit status 1 when that is anything but silence: to what changes something, an
answer is a refusal.
"""
import json, socket, sys

s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw")


def ask(name, **arguments):
    f.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    f.flush()
    while True:
        answer = json.loads(f.readline())
        if "event" not in answer and "QMP" not in answer:
            return answer.get("return", answer)


ask("qmp_capabilities")
said = str(ask("human-monitor-command", **{"command-line": " ".join(sys.argv[2:])})).strip()
if said:
    print(said)
    sys.exit(1)
