#!/usr/bin/python3
"""Start a target, wait until it is ready, and note how it ends.

  supervise.py [--notify SECONDS] --pid FILE --status FILE COMMAND...

Returns once the command runs or, with --notify, once it has sent READY=1 by
the sd_notify protocol; exits 1, saying why, when it ended first or stayed
silent for SECONDS.  A process left behind waits for the command and writes
its exit status to the status file (128 + N after signal N).  A test can thus
tell a clean stop from a crash, which a shell that is long gone cannot.
The command's output goes to the standard output given to this program.
"""
import getopt, os, select, shutil, signal, socket, subprocess, sys, tempfile, time

opts, command = getopt.getopt(sys.argv[1:], "h", ["notify=", "pid=", "status=", "help"])
opts = {name.lstrip("-"): value for name, value in opts}
if "h" in opts or "help" in opts or not command or not {"pid", "status"} <= opts.keys():
    sys.exit(__doc__)


def put(path, text):
    """A reader sees all of it or no file."""
    with open(path + ".tmp", "w") as f:
        f.write(text + "\n")
    os.rename(path + ".tmp", path)


def wait_until_ready(child, sock, tell):
    """Tell the caller how it went, then take notifications until the command ends."""
    ended, told, limit = os.pidfd_open(child.pid), False, time.monotonic() + float(opts["notify"])
    while True:
        left = None if told else max(0, limit - time.monotonic())
        events = select.select([sock, ended], [], [], left)[0]
        if sock in events:
            # Later ones (STATUS=, WATCHDOG=1) are taken too: ten unread ones would block the sender.
            if b"READY=1" in sock.recv(65536).split(b"\n") and not told:
                told = tell("")
        elif ended in events:
            if not told:
                tell("it ended with status %d before it was ready" % status(child.wait()))
            return
        elif not told:
            told = tell("it did not send READY=1 within %s seconds" % opts["notify"])


def supervise(tell):
    env, sock, room = dict(os.environ), None, None
    env.pop("NOTIFY_SOCKET", None)
    if "notify" in opts:
        # A socket's path may have 107 bytes only, so not below the results.
        # (An abstract name would not reach out of the network namespace.)
        room = tempfile.mkdtemp(prefix="xshelf-ready.", dir="/tmp")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(room + "/notify")
        env["NOTIFY_SOCKET"] = room + "/notify"
    try:
        try:
            child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        except OSError as e:
            put(opts["status"], "127")
            tell("cannot run %s: %s" % (command[0], e.strerror))
            return
        put(opts["pid"], str(child.pid))
        if sock is None:
            tell("")
        else:
            wait_until_ready(child, sock, tell)
        put(opts["status"], str(status(child.wait())))
    finally:
        if room:
            shutil.rmtree(room, ignore_errors=True)


def status(code):
    return 128 - code if code < 0 else code


# The caller learns the outcome through a pipe; everything else it handed down
# is closed, or it would wait for this process to end.
r, w = os.pipe()
if os.fork():
    os.close(w)
    outcome = b""
    while chunk := os.read(r, 4096):
        outcome += chunk
    if outcome != b"ok":
        sys.exit(outcome.decode() or "supervise.py: broke off")
    sys.exit(0)

os.setsid()
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.dup2(w, 3)
os.closerange(4, 4096)
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 0)


def tell(fault):
    # Its log is standard output; the caller's standard error has to be let go.
    os.dup2(1, 2)
    os.write(3, fault.encode() or b"ok")
    os.close(3)
    return True


supervise(tell)
