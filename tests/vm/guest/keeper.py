#!/usr/bin/python3
"""A host that remembers what it wrote, while the disk behind its slot comes and goes.

  keeper.py IF SHELF.SLOT FIRST COUNT DIR

Writes and reads sectors FIRST to FIRST+COUNT of a slot, one to four at a time, eight requests at once, whatever it is
answered; after DIR/stop has appeared it reads all it ever wrote, and compares.  DIR/now always holds one line of
key=value words:

  writes, reads   requests that were answered well
  ATA41/40=N...   requests that were answered with this status and error
  AoE3=N...       with this AoE error
  unanswered      requests in flight; at the end those without any answer, to no copy
  resent          copies that were sent because an answer took more than two seconds
  checked, bad    sectors compared, and those of them that hold what they may not
  phase           run, check, done

A sector may hold what was acknowledged last.  After a write that failed or was not answered it may also hold that, until
the next one is acknowledged.  Exit status: 0 when nothing is bad and nothing unanswered, else 1.
"""
import os, random, select, socket, struct, sys, time

ETH = 0x88A2
ifname, address, first, count, where = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
major, minor = (int(x) for x in address.split("."))
seed = int.from_bytes(os.urandom(4), "little")
RESEND, GUARD = 2.0, 120.0
luck = random.Random(seed)

s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH))
s.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
s.bind((ifname, ETH))
own = s.getsockname()[4]
target = b"\xff" * 6

may = {}  # sector: numbers of the writes that it may hold; 0: anything
busy = set()
frozen = set()  # not every copy of a write was answered: one may still come
flight = {}  # number: [kind, lba, sectors, tags not answered, sent last, sent first]
tags = {}
total = dict(writes=0, reads=0, resent=0, checked=0, bad=0)
refused = {}
number = 0
next_tag = 1
what = ""
rest = 0.0  # nothing is begun before, so that errors do not take the whole machine


def sector(lba, n):
    return struct.pack("<III4x", lba, n, seed) * 32


def send(n):
    global next_tag
    kind, lba, sectors, owed, _, begun = r = flight[n]
    tag, next_tag = next_tag, next_tag + 1
    tags[tag] = n
    owed.add(tag)
    r[4] = time.monotonic()
    ata = struct.pack("<BBBB6s2x", 0x41 if kind == "write" else 0x40, 0, sectors, 0x34 if kind == "write" else 0x24,
                      struct.pack("<Q", lba)[:6])
    data = b"".join(sector(lba + i, n) for i in range(sectors)) if kind == "write" else b""
    head = struct.pack(">6s6sHBBHBBI", target, own, ETH, 0x10, 0, major, minor, 0, tag)
    s.send((head + ata + data).ljust(60, b"\0"))


def begin(kind, lba, sectors):
    global number
    number += 1
    busy.update(range(lba, lba + sectors))
    now = time.monotonic()
    flight[number] = [kind, lba, sectors, set(), now, now]
    send(number)


def compare(lba, data):
    global what
    for i in range(len(data) // 512):
        if 0 in may.get(lba + i, {0}):
            continue
        total["checked"] += 1
        got = data[i * 512:i * 512 + 512]
        if not any(got == sector(lba + i, n) for n in may[lba + i]):
            total["bad"] += 1
            if not what:
                what = " first-bad=%d-holds-%s-not-%s" % (lba + i, got[:12].hex(), sorted(may[lba + i]))


def forget(n):
    """Nothing more is to come of it: its sectors are free again, unless a copy of a write is still on the way."""
    kind, lba, sectors, owed, _, _ = flight.pop(n)
    sectors = range(lba, lba + sectors)
    busy.difference_update(sectors)
    if owed and kind == "write":
        frozen.update(sectors)


def heard(f):
    global rest
    if len(f) < 36 or f[:6] != own:
        return
    vf, err, mj, mn, cmd, tag = struct.unpack(">BBHBBI", f[14:24])
    if not vf & 8 or (mj, mn, cmd) != (major, minor, 0) or tag not in tags:
        return
    n = tags.pop(tag)
    if n not in flight:
        return
    kind, lba, sectors, owed, _, _ = flight[n]
    owed.discard(tag)
    if vf & 4 or f[27] & 1:
        rest = time.monotonic() + 0.01
        word = "AoE%d" % err if vf & 4 else "ATA%02x/%02x" % (f[27], f[25])
        refused[word] = refused.get(word, 0) + 1
        if kind == "write":
            for i in range(lba, lba + sectors):
                may.setdefault(i, {0}).add(n)
    elif kind == "write":
        total["writes"] += 1
        for i in range(lba, lba + sectors):
            may[i] = {n}
    else:
        total["reads"] += 1
        compare(lba, f[36:36 + 512 * sectors])
    forget(n)


def tell(phase):
    words = ["phase=" + phase, "unanswered=%d" % len(flight)] + ["%s=%d" % x for x in (total | refused).items()]
    with open(where + "/next", "w") as f:
        f.write(" ".join(words) + what + "\n")
    os.rename(where + "/next", where + "/now")


def turn():
    """Takes what has come, and sends again what was not answered."""
    if select.select([s], [], [], 0.05)[0]:
        for _ in range(16):
            try:
                f, addr = s.recvfrom(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if addr[2] != socket.PACKET_OUTGOING:
                heard(f)
    now = time.monotonic()
    for n in [n for n, r in flight.items() if now - r[4] > RESEND]:
        total["resent"] += 1
        send(n)


# Where it is: by Query Config, as everybody does.
query = struct.pack(">6s6sHBBHBBI", target, own, ETH, 0x10, 0, major, minor, 1, 0x7FFFFFFF) + bytes(8)
while target[0] & 1:
    s.send(query.ljust(60, b"\0"))
    s.settimeout(1)
    try:
        f, addr = s.recvfrom(65536)
        if f[:6] == own and f[14] & 0xC == 8 and f[20:24] == b"\x7f\xff\xff\xff":
            target, most = f[6:12], min(4, f[28] or 2)
    except socket.timeout:
        pass
s.settimeout(None)
# Every sector is known from the beginning.
for lba in range(first, first + count, most):
    begin("write", lba, min(most, first + count - lba))
    while len(flight) >= 8:
        turn()
told = 0.0
while not os.path.exists(where + "/stop"):
    while len(flight) < 8 and time.monotonic() >= rest:
        sectors = luck.randint(1, most)
        lba = first + luck.randrange(count - sectors + 1)
        kind = "read" if luck.random() < 0.25 else "write"
        around = range(lba, lba + sectors)
        if busy.intersection(around) or kind == "write" and frozen.intersection(around):
            break
        begin(kind, lba, sectors)
    turn()
    if time.monotonic() - told > 0.2:
        told = time.monotonic()
        tell("run")


def drain(below):
    """Waits until fewer are in flight; without any answer for so long there will be none."""
    end = time.monotonic() + GUARD
    while len(flight) >= below and time.monotonic() < end:
        turn()
    return len(flight) < below


drain(1)
tell("check")
silent = len(flight)
for n in list(flight):
    kind, lba, sectors = flight[n][:3]
    if kind == "write":
        for i in range(lba, lba + sectors):
            may.setdefault(i, {0}).add(n)
    forget(n)
before = total["reads"], sum(refused.values())
for lba in range(first, first + count, most):
    begin("read", lba, min(most, first + count - lba))
    drain(8)
drain(1)
silent += len(flight)
all_read = (total["reads"] - before[0], sum(refused.values()) - before[1]) == (-(-count // most), 0)
tell("done")
sys.exit(0 if total["bad"] == 0 and silent == 0 and all_read else 1)
