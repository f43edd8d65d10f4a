#!/usr/bin/env python3
"""Writes extended.json: what aoe-vectors.json, a sample, leaves out of the protocol.

usage: extend.py [--check]     --check only says whether extended.json is what this would write

Each case names the rules of docs/conformance.md it is for. What it adds to the format of the vectors stands in `ABOUT`.
"""
import json, os, sys

ABOUT = [
    "Cases beside aoe-vectors.json, in the same format and with the same fresh slot; written by extend.py.",
    "rule: the rows of docs/conformance.md a case is for.",
    "pre: besides mtu, read_only and vlan of the vectors there may be: sectors (size of the slot; only the first 2048 have content); "
    "slots (several slots of shelf 7); write_cache, trim, health, allow, reserved_answer, serial, model, firmware, wwn, physical_block, misalignment, "
    "rotational (options of the slot, or facts of its device); "
    "store 'full' (a change of state finds no room on disk); fault [verb, errno] (the device fails one such command).",
    "runs 'core': only the pure core can be brought into that state; all other cases also run against the binary.",
    "expect.replies: that many frames, which differ in the slot they come from only. "
    "A constraint with sum: the bytes of the range add up to equals, modulo 256.",
    "expect.content [offset, lba, sectors]: from there to its end the answer holds these sectors of the fresh slot. expect.length: bytes of the whole answer.",
    "then: an element with restart starts the target anew, with its disk and its kept state, before its request. "
    "request_hex null in then: a frame the target sends on its own after the request; it is to come, among others maybe.",
]
T, I, A, B = (bytes.fromhex(x) for x in ('020000000001', '020000000002', '0200000000aa', '0200000000bb'))
BC = b'\xff' * 6
TAG = bytes.fromhex('00010203')
cases, ids = [], set()

def sector(i): return bytes((i * 31 + j) & 0xff for j in range(512))
class Content(bytes): """What a fresh slot holds from `lba` on."""
def disk(lba, n):
    content = Content(b''.join(sector(i) for i in range(lba, lba + n)))
    content.lba = lba
    return content
def fill(seed, n): return bytes((seed + i // 512 * 7 + i * 3) & 0xff for i in range(512 * n))
def be(n, size): return n.to_bytes(size, 'big')
def le(n, size): return n.to_bytes(size, 'little')
def pad(f, n=60): return f + bytes(max(0, n - len(f)))

def frame(cmd, arg=b'', dst=T, src=I, ver=0x10, err=0, shelf=7, slot=3, tag=TAG, tci=None, size=60, ethertype=0x88a2):
    vlan = b'' if tci is None else b'\x81\x00' + be(tci, 2)
    return pad(dst + src + vlan + be(ethertype, 2) + bytes([ver, err]) + be(shelf, 2) + bytes([slot, cmd]) + tag + arg, size)

def answer(cmd, arg=b'', to=I, err=0, tag=TAG, tci=None, slot=3, size=60):
    return frame(cmd, arg, dst=to, src=T, ver=0x1c if err else 0x18, err=err, tag=tag, tci=tci, slot=slot, size=size)

# What the parts look like.
def cfg(cmd, text=b'', length=None, buffers=0, firmware=0, sectors=0, nibble=0):
    length = len(text) if length is None else length
    return be(buffers, 2) + be(firmware, 2) + bytes([sectors, nibble << 4 | cmd]) + be(length, 2) + text
def cfg_answer(cmd, text=b'', sectors=2): return cfg(cmd, text, buffers=64, firmware=0, sectors=sectors, nibble=1)
def swap(expected, new): return expected + be(len(new), 2) + new
def ata(op, lba=0, count=0, aflags=None, feature=0, data=b'', reserved=b'\0\0'):
    if aflags is None:
        aflags = 0x40 if op in (0x24, 0x25, 0x27, 0x29, 0x34, 0x35, 0x39, 0x3d, 0x42, 0xea) else 0
        aflags |= 1 if op in WRITES or op == 0x06 else 0
    return bytes([aflags, feature, count, op]) + le(lba, 6) + reserved + data
def done(op, lba=0, count=0, data=b'', status=0x40, error=0, aflags=None):
    return ata(op, lba, count, aflags, error, data)[:3] + bytes([status]) + le(lba, 6) + b'\0\0' + data
def mask(cmd, *directives, count=None, reserved=0, err=0):
    n = len(directives) if count is None else count
    return bytes([reserved, cmd, err, n]) + b''.join(bytes([0, d]) + m for d, m in directives)
def maclist(cmd, *macs): return mask(cmd, *((0, m) for m in macs))
def rsv(cmd, *macs, count=None): return bytes([cmd, len(macs) if count is None else count]) + b''.join(macs)
READS = {0x20, 0x24, 0x25, 0x29, 0xc4, 0xc8}
WRITES = {0x30, 0x34, 0x35, 0x39, 0x3d, 0xc5, 0xca}

# What is expected.
SILENCE = {'reply': False}
def expect(response, n=None, **more):
    """The whole frame, padding included; `n` significant bytes if not all."""
    return {'reply': True, 'response_hex': response.hex(), 'significant_bytes': len(response) if n is None else n, **more}
def cfg_says(cmd, text=b'', err=0, to=I, tag=TAG, tci=None, sectors=2, **more):
    at = 24 if tci is None else 28
    f = answer(1, cfg_answer(cmd, text, sectors), to, err, tag, tci)
    limits = [{'field': 'buffer_count', 'offset': at, 'size': 2, 'min': 2, 'max': 65535}]
    return expect(f, dont_care=[[at, 4]], constraints=limits, **more)
def refuses(cmd, err, arg=b'', to=I, **more): return expect(answer(cmd, arg, to, err, **more))
def ata_says(op, lba=0, count=0, data=b'', status=0x40, error=0, aflags=None, to=I, tag=TAG, tci=None, **more):
    f = answer(0, done(op, lba, count, data, status, error, aflags), to, tag=tag, tci=tci)
    if not isinstance(data, Content): return expect(f, **more)
    at = len(f) - len(data)
    return {'reply': True, 'response_hex': f[:at].hex(), 'significant_bytes': at, 'content': [at, data.lba, len(data) // 512], **more}
def aborted(op, lba=0, count=0, **more): return ata_says(op, lba, count, status=0x41, error=4, **more)
def no_such(op, lba=0, count=0, **more): return ata_says(op, lba, count, status=0x41, error=0x10, **more)

def paged(op, lba=0, to=I, aflags=None): return {'reply': True, 'response_hex': answer(0, done(op, lba, aflags=aflags), to, size=0).hex(), 'significant_bytes': 36, 'compare_only': [[0, 36]], 'length': 548}
serial = 0
def then(cmd, arg, e, **more):
    """A request afterwards, with a tag of its own; `e` makes the expectation from the tag."""
    global serial
    serial += 1
    tag = be(0x8000 + serial, 4)
    src = more.get('src', I)
    step = {'request_hex': frame(cmd, arg, tag=tag, **more).hex(), 'expect': e(tag, src)}
    return step
def still_read(lba=0, data=None, n=1, **more):
    data = disk(lba, n) if data is None else data
    return then(0, ata(0x24, lba, len(data) // 512), lambda t, s: ata_says(0x24, lba, 0, data, tag=t, to=s, tci=more.get('tci')), **more)
def string_is(text, **more): return then(1, cfg(0), lambda t, s: cfg_says(0, text, tag=t, to=s), **more)
def mask_is(*macs, **more): return then(2, mask(0), lambda t, s: expect(answer(2, maclist(0, *macs), s, tag=t)), **more)
def rsv_is(*macs, **more): return then(3, rsv(0), lambda t, s: expect(answer(3, rsv(0, *macs), s, tag=t)), **more)
def quiet(cmd, arg, **more): return then(cmd, arg, lambda t, s: SILENCE, **more)

def case(id, rule, title, request, e, level='should', pre=None, setup=(), then=(), why='', runs=None):
    assert id not in ids, id
    ids.add(id)
    global serial
    serial = 0
    c = {'id': id, 'rule': [rule] if isinstance(rule, str) else list(rule), 'title': title, 'level': level, 'pre': pre or {},
         'setup_hex': [s.hex() for s in setup], 'request_hex': None if request is None else request.hex(), 'expect': e}
    if then: c['then'] = list(then)
    if runs: c['runs'] = runs
    if why: c['why'] = why
    cases.append(c)

HELLO = frame(1, cfg(4, b'hello'))
HELD = frame(3, rsv(1, I))

# ---------------------------------------------------------------- 2: Ethernet
for cmd, name, arg, e in ((1, 'config', cfg(0), lambda: cfg_says(0)), (0, 'ata', ata(0xe5), lambda: ata_says(0xe5, count=0xff)),
                          (2, 'mask', mask(0), lambda: expect(answer(2, mask(0)))), (3, 'reserve', rsv(0), lambda: expect(answer(3, rsv(0)))),
                          (9, 'unknown', b'', lambda: refuses(9, 1))):
    case(f'eth-shortest-{name}', ['2/requests', '15/9', '11/5'], f'The shortest {name} request there can be', frame(cmd, arg, size=0), e(), 'must')
    if arg: case(f'eth-runt-{name}', ['11/5'], f'A {name} request one byte short of its argument header', frame(cmd, arg[:-1], size=0), SILENCE)
case('eth-header-only', ['11/5'], 'Query Config without an argument header', frame(1, size=0), SILENCE)
case('eth-padded-reply', ['2/replies', '15/8'], 'The reply to a 32-byte query has 60 bytes', frame(1, cfg(0), size=0), cfg_says(0))
case('eth-trailing-read', ['2/trailing', '15/46', '15/45'], 'A read with 700 bytes behind its header: data of exactly one sector comes back',
     frame(0, ata(0x24, 3, 1, data=b'\xed' * 700)), ata_says(0x24, 3, 0, disk(3, 1)), 'must')
case('eth-trailing-mask', ['2/trailing', '15/46'], 'Bytes behind the directives', frame(2, mask(1, (1, I)) + b'\xed' * 300), expect(answer(2, maclist(1, I))))
case('eth-trailing-reserve', ['2/trailing', '15/46'], 'Bytes behind the addresses', frame(3, rsv(1, I) + b'\xed' * 300), expect(answer(3, rsv(1, I))))
case('eth-foreign-unicast', ['2/destination', '11/1', '15/10'], 'A read for another host', frame(0, ata(0x24, 0, 1), dst=B), SILENCE)
case('eth-multicast', ['2/destination', '11/1'], 'A multicast destination', frame(1, cfg(0), dst=bytes.fromhex('01005e000001')), SILENCE)
case('eth-source-multicast', ['2/source', '11/1', '15/11'], 'A multicast source', frame(1, cfg(0), src=bytes.fromhex('030000000002')), SILENCE)
case('eth-source-own', ['2/source', '11/1'], 'Our own address as source', frame(1, cfg(0), src=T), SILENCE)
case('eth-other-type', ['11/1', '8/cec'], 'The console of Coraid shelves (EtherType BCBC) is no AoE', frame(1, cfg(0), ethertype=0xbcbc), SILENCE)

# ---------------------------------------------------------------- 3: header
case('hdr-source-is-port', ['3/source', '11/7'], 'The answer to a broadcast comes from the port, to the requester only',
     frame(1, cfg(0), dst=BC, src=A), cfg_says(0, to=A), 'must')
for bits in range(1, 8):
    flags = bits if bits < 4 else bits
    case(f'hdr-flags-{bits:x}', ['3/flags', '15/3'], f'Request flags {bits:#x}: E and reserved bits mean nothing and are not echoed',
         frame(1, cfg(0), ver=0x10 | flags), cfg_says(0), 'should' if bits & 4 else 'must')
case('hdr-flags-write', ['3/flags', '15/3'], 'Reserved flag bits on a write (aoeping does that)', frame(0, ata(0x34, 5, 1, data=fill(9, 1)), ver=0x11),
     ata_says(0x34, 5), then=[still_read(5, fill(9, 1))])
for f in (0x08, 0x0c, 0x0f):
    case(f'hdr-response-{f:x}', ['3/flags', '11/1', '15/2'], f'R set among flags {f:#x}: no request', frame(1, cfg(0), ver=0x10 | f), SILENCE, 'must')
case('hdr-response-write', ['3/flags', '11/1', '15/2'], 'A write that says it is a response is not done', frame(0, ata(0x34, 5, 1, data=fill(9, 1)), ver=0x18),
     SILENCE, 'must', then=[still_read(5)])
case('hdr-error-byte', ['3/error-byte', '15/4'], 'Junk in the error byte of a request', frame(1, cfg(0), err=0x5a), cfg_says(0))
case('hdr-error-byte-ata', ['3/error-byte', '15/4'], 'The same, with a failing ATA command', frame(0, ata(0x99), err=3), aborted(0x99))
for v in (0, 2, 3, 15):
    case(f'hdr-version-drop-{v}', ['3/version', '11/1', '15/1'], f'Version {v} is dropped', frame(1, cfg(0), ver=v << 4), SILENCE)
case('hdr-version-write', ['3/version', '15/1'], 'A write of version 2 is not done', frame(0, ata(0x34, 5, 1, data=fill(9, 1)), ver=0x20), SILENCE,
     then=[still_read(5)])
for cmd in (4, 5, 0x42, 0xf0, 0xf1, 0xf2, 0xf3, 0xff):
    rules = ['3/unknown', '11/6', '15/5', '15/7'] + (['8/keyed', '15/6'] if cmd == 4 else ['8/vendor', '15/6'] if cmd >= 0xf0 else [])
    case(f'hdr-unknown-{cmd:02x}', rules, f'Command {cmd:#x}: error 1, nothing of the request behind the header', frame(cmd, b'\x5a' * 40), refuses(cmd, 1))
    case(f'hdr-unknown-{cmd:02x}-wild', ['3/unknown', '11/6', '15/5'], f'Command {cmd:#x} to everybody: silence',
         frame(cmd, dst=BC, shelf=0xffff, slot=0xff), SILENCE)
for shelf, slot, name in ((8, 3, 'shelf'), (7, 2, 'slot'), (0xfffe, 3, 'shelf-fffe'), (7, 0xfe, 'slot-fe'), (0x0700, 3, 'swapped')):
    case(f'hdr-other-{name}', ['3/address', '11/2'], f'Address {shelf}.{slot} is not ours', frame(1, cfg(0), shelf=shelf, slot=slot), SILENCE, 'must')
for dst, how in ((T, 'unicast'), (BC, 'broadcast')):
    for shelf, slot, name in ((7, 3, 'exact'), (0xffff, 3, 'any-shelf'), (7, 0xff, 'any-slot'), (0xffff, 0xff, 'any')):
        case(f'hdr-{name}-{how}', ['3/wildcards', '3/real-address', '11/2', '15/12'], f'{name.replace("-", " ")} address in a {how} frame: the real address answers',
             frame(1, cfg(0), dst=dst, shelf=shelf, slot=slot), cfg_says(0), 'must')
case('hdr-half-wild-wrong', ['3/wildcards', '11/2'], 'Any slot of a shelf that is not ours', frame(1, cfg(0), dst=BC, shelf=8, slot=0xff), SILENCE, 'must')
case('hdr-half-wild-wrong-slot', ['3/wildcards', '11/2'], 'A slot that no shelf of ours has', frame(1, cfg(0), dst=BC, shelf=0xffff, slot=9), SILENCE, 'must')
many = {'slots': [3, 4, 5, 254]}
for shelf, slot in ((7, 0xff), (0xffff, 0xff)):
    case(f'hdr-every-slot-{shelf:x}', ['3/wildcards', '15/12'], 'Each of four slots answers with a frame of its own',
         frame(1, cfg(0), dst=BC, shelf=shelf, slot=slot), {**cfg_says(0), 'replies': 4}, 'must', pre=many)
case('hdr-every-slot-read', ['3/wildcards'], 'A read of all slots is a read of each',
     frame(0, ata(0x24, 1, 1), dst=BC, slot=0xff), {**ata_says(0x24, 1, 0, disk(1, 1)), 'replies': 4}, 'may', pre=many)
WILD = dict(dst=BC, shelf=0xffff, slot=0xff)
case('wild-identify-half', ['3/wild-ata'], 'IDENTIFY to any slot of the shelf', frame(0, ata(0xec, 0, 1), dst=BC, slot=0xff),
     paged(0xec), 'must')
case('wild-flush', ['3/wild-ata'], 'FLUSH CACHE EXT to everybody', frame(0, ata(0xea), **WILD), ata_says(0xea), 'may')
case('wild-power', ['3/wild-ata'], 'CHECK POWER MODE to everybody', frame(0, ata(0xe5), **WILD), ata_says(0xe5, count=0xff), 'may')
for op, lba, count, name in ((0x99, 0, 1, 'unknown'), (0x24, 2048, 1, 'behind'), (0x24, 0, 3, 'many'), (0x20, 0, 0, 'none')):
    case(f'wild-ata-{name}', ['3/wild-refused', '3/wild-ata'], f'{op:02X} of {count} at {lba} to everybody: what would fail is refused in silence', frame(0, ata(op, lba, count), **WILD), SILENCE)
for op in sorted(WRITES):
    case(f'wild-write-{op:02x}', ['3/wild-write', '15/13'], f'Write {op:02X} to everybody: refused in silence', frame(0, ata(op, 60, 1, data=fill(1, 1)), **WILD), SILENCE,
         then=[still_read(60)])
for shelf, slot, name in ((7, 0xff, 'any-slot'), (0xffff, 3, 'any-shelf')):
    case(f'wild-write-{name}', ['3/wild-write', '15/13'], 'A write to half a wildcard', frame(0, ata(0x34, 60, 1, data=fill(1, 1)), shelf=shelf, slot=slot), SILENCE,
         then=[still_read(60)])
case('wild-write-bad', ['3/wild-write', '15/13'], 'A write to everybody that would fail anyhow', frame(0, ata(0x34, 5000, 0), **WILD), SILENCE)
case('wild-trim', ['3/wild-write', '15/13'], 'TRIM to everybody: refused in silence', frame(0, ata(6, 0, 1, feature=1, data=pad(le(60, 6) + le(1, 2), 512)), **WILD), SILENCE,
     pre={'trim': True}, then=[still_read(60)])
case('wild-test', ['3/wild-config'], 'Test to everybody: those with the string answer', frame(1, cfg(1, b'hello'), **WILD), cfg_says(1, b'hello'), setup=[HELLO])
case('wild-test-other', ['3/wild-config'], 'Test to everybody without a match', frame(1, cfg(1, b'hellO'), **WILD), SILENCE, setup=[HELLO])
case('wild-prefix', ['3/wild-config'], 'Prefix test to everybody', frame(1, cfg(2, b'he'), **WILD), cfg_says(2, b'hello'), setup=[HELLO])
case('wild-prefix-long', ['3/wild-config'], 'Test of a long string to everybody', frame(1, cfg(1, fill(3, 2)), **WILD), cfg_says(1, fill(3, 2)),
     setup=[frame(1, cfg(4, fill(3, 2)))], why='The whole argument counts, not only what fits a small copy of the request.')
for cmd, name, arg in ((3, 'set', b'x'), (4, 'force', b'x'), (5, 'replace', swap(b'', b'x'))):
    case(f'wild-{name}', ['3/wild-change'], f'Config {name} to everybody: silence, nothing changed',
         frame(1, cfg(cmd, arg, length=0 if cmd == 5 else None), **WILD), SILENCE, then=[string_is(b'')])
case('wild-config-unknown', ['3/wild-change'], 'An unknown config command to everybody: no storm of errors', frame(1, cfg(9), **WILD), SILENCE)
case('wild-config-length', ['3/wild-change'], 'A test whose length exceeds the frame, to everybody', frame(1, cfg(1, b'', length=1024), **WILD), SILENCE)
case('wild-mask-read', ['3/wild-lists'], 'Mask read to everybody', frame(2, mask(0), **WILD), expect(answer(2, mask(0))))
case('wild-mask-edit', ['3/wild-change'], 'Mask edit to everybody: silence, nothing changed', frame(2, mask(1, (1, A)), **WILD), SILENCE, then=[mask_is()])
case('wild-mask-unknown', ['3/wild-change'], 'An unknown mask command to everybody', frame(2, mask(7), **WILD), SILENCE)
case('wild-reserve-read', ['3/wild-lists'], 'Reserve read to everybody', frame(3, rsv(0), **WILD), expect(answer(3, rsv(0))))
for cmd, name in ((1, 'set'), (2, 'force')):
    case(f'wild-reserve-{name}', ['3/wild-change'], f'Reserve {name} to everybody: silence, nothing changed', frame(3, rsv(cmd, I), **WILD), SILENCE, then=[rsv_is()])
case('wild-reserve-unknown', ['3/wild-change'], 'An unknown reserve command to everybody', frame(3, rsv(7), **WILD), SILENCE)
case('wild-reserved', ['3/wild-change', '7/denied'], 'A read to everybody by a stranger while reserved: no error to a wildcard',
     frame(0, ata(0x24, 0, 1), src=A, **WILD), SILENCE, setup=[HELD])
for t in ('00000000', '80000000', 'ffffffff', '7fffffff', '12345678'):
    case(f'hdr-tag-{t}', ['3/tag'], f'Tag {t} comes back', frame(0, ata(0x24, 2, 1), tag=bytes.fromhex(t)), ata_says(0x24, 2, 0, disk(2, 1), tag=bytes.fromhex(t)), 'must')
case('hdr-tag-same', ['3/tag', '10/reads'], 'The same read twice with the same tag is answered twice', frame(0, ata(0x24, 2, 1)), ata_says(0x24, 2, 0, disk(2, 1)), 'must',
     setup=[frame(0, ata(0x24, 2, 1))])
case('err-header-config', ['3/error-header', '15/7'], 'An AoE error keeps the config header', frame(1, cfg(0xa, buffers=0x1122, firmware=0x3344, sectors=5, length=0)),
     refuses(1, 2, cfg(0xa, buffers=0x1122, firmware=0x3344, sectors=5)))
case('err-header-mask', ['3/error-header', '15/7'], 'An AoE error keeps the mask header', frame(2, mask(9, count=3)), refuses(2, 2, mask(9, count=3)))
case('err-header-reserve', ['3/error-header', '15/7'], 'An AoE error keeps the reserve header', frame(3, rsv(9, count=3)), refuses(3, 2, rsv(9, count=3)))
case('err-header-ata', ['3/error-header', '15/7', '7/denied', '15/39'], 'An AoE error keeps the ATA header', frame(0, ata(0x24, 0x1234, 1), src=A),
     refuses(0, 6, ata(0x24, 0x1234, 1), to=A), setup=[HELD])

# ---------------------------------------------------------------- 4: ATA
def rw(op): return 'read' if op in READS else 'write'
WIDE = {0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x3d, 0x42}
for op in sorted(READS | WRITES):
    row, read = f'4.1/{op:02X}', op in READS
    data = b'' if read else fill(op, 1)
    flow = lambda n, op=op: dict(data=b'' if op in READS else fill(op, n))
    case(f'ata-{op:02x}-good', [row, '4/good'], f'{op:02X}, one sector', frame(0, ata(op, 9, 1, data=data)), ata_says(op, 9, 0, disk(9, 1) if read else b''), 'must',
         then=[] if read else [still_read(9, data), still_read(8), still_read(10)])
    two = fill(op, 2)
    case(f'ata-{op:02x}-two', [row, '4/good'], f'{op:02X}, the last two sectors of the disk', frame(0, ata(op, 2046, 2, **flow(2))),
         ata_says(op, 2046, 0, disk(2046, 2) if read else b''), 'must', then=[] if read else [still_read(2046, two)])
    case(f'ata-{op:02x}-behind', [row, '4/order-6', '15/26'], f'{op:02X} of the first sector behind the end', frame(0, ata(op, 2048, 1, **flow(1))), no_such(op, 2048, 1), 'must')
    case(f'ata-{op:02x}-across', [row, '4/order-6', '15/26'], f'{op:02X} across the end: all or nothing', frame(0, ata(op, 2047, 2, **flow(2))), no_such(op, 2047, 2), 'must',
         then=[] if read else [still_read(2047)])
    far = (1 << 48) - 1 if op in WIDE else (1 << 28) - 1
    case(f'ata-{op:02x}-far', [row, '4/order-6', '15/26'], f'{op:02X} at the highest address: no overflow', frame(0, ata(op, far, 2, **flow(2))), no_such(op, far, 2), 'must')
    case(f'ata-{op:02x}-none', [row, '4/order-4', '15/23'], f'{op:02X} with count 0', frame(0, ata(op, 9, 0)), aborted(op, 9, 0))
    case(f'ata-{op:02x}-many', [row, '4/order-4', '15/24', '4.3/probe'], f'{op:02X} of more sectors than advertised', frame(0, ata(op, 9, 3, **({} if read else dict(data=fill(op, 2))))),
         aborted(op, 9, 3), then=[] if read else [still_read(9, n=2)])
    case(f'ata-{op:02x}-all', [row, '4/order-4', '15/24'], f'{op:02X} with count 255', frame(0, ata(op, 9, 255)), aborted(op, 9, 255))
    if not read:
        case(f'ata-{op:02x}-short', [row, '4/order-5', '15/25'], f'{op:02X} with one byte of its data missing: nothing is written',
             frame(0, ata(op, 9, 2, data=fill(op, 2)[:-1])), aborted(op, 9, 2), 'must', then=[still_read(9, n=2)])
        case(f'ata-{op:02x}-no-data', [row, '4/order-5', '15/25'], f'{op:02X} without data', frame(0, ata(op, 9, 1)), aborted(op, 9, 1), 'must', then=[still_read(9)])
        case(f'ata-{op:02x}-read-only', [row, '4/order-7', '15/30'], f'{op:02X} to a read-only slot', frame(0, ata(op, 9, 1, data=data)), aborted(op, 9, 1), 'must',
             pre={'read_only': True}, then=[still_read(9)])
        case(f'ata-{op:02x}-fault', [row, '4/order-8'], f'{op:02X} that the device fails', frame(0, ata(op, 9, 1, data=data)), ata_says(op, 9, 1, status=0x61, error=4),
             pre={'fault': ['write', 5]}, runs='core')
    else:
        case(f'ata-{op:02x}-medium', [row, '4/order-8'], f'{op:02X} of a sector that cannot be read', frame(0, ata(op, 9, 1)), ata_says(op, 9, 1, status=0x41, error=0x40),
             pre={'fault': ['read', 5]}, runs='core', then=[still_read(9)])
        case(f'ata-{op:02x}-gone', [row, '4/order-8'], f'{op:02X} from a device that is gone', frame(0, ata(op, 9, 1)), ata_says(op, 9, 1, status=0x61, error=4),
             pre={'fault': ['read', 19]}, runs='core')
    if op not in WIDE:
        lba = 9 | 0xe << 28 | 0x1234 << 32
        case(f'ata-{op:02x}-lba28', [row, '4/lba', '15/31'], f'{op:02X} takes 28 bits, with the E flag as well', frame(0, ata(op, lba, 1, aflags=0x40 | (not read), data=data)),
             ata_says(op, lba, 0, disk(9, 1) if read else b'', aflags=0x40 | (not read)), then=[] if read else [still_read(9, data)])
    else:
        lba = 9 | 0xe << 28
        case(f'ata-{op:02x}-lba48', [row, '4/lba', '15/31'], f'{op:02X} takes 48 bits, without the E flag as well', frame(0, ata(op, lba, 1, aflags=0, data=data)),
             no_such(op, lba, 1, aflags=0), then=[] if read else [still_read(9)])
case('ata-20-high-nibble', ['4/lba', '4.1/20'], 'All values of the upper nibble of LBA3 are device bits', frame(0, ata(0x20, 9 | 0xf << 28, 1)), ata_says(0x20, 9 | 0xf << 28, 0, disk(9, 1)), 'must')
case('ata-20-bit27', ['4/lba', '4.1/20'], 'Bit 27 counts', frame(0, ata(0x20, 1 << 27, 1)), no_such(0x20, 1 << 27, 1), 'must')
case('ata-24-bit40', ['4/lba', '4.1/24'], 'Bit 40 counts', frame(0, ata(0x24, 1 << 40, 1)), no_such(0x24, 1 << 40, 1), 'must')
for name, aflags in (('d', 0x50), ('a', 0x42), ('w', 0x41), ('all', 0xff)):
    case(f'ata-aflag-{name}-read', ['4/aflags', '4.1/24'] + (['15/32'] if name == 'w' else []), f'AFlags {aflags:#x} on a read: echoed, not obeyed',
         frame(0, ata(0x24, 9, 1, aflags=aflags)), ata_says(0x24, 9, 0, disk(9, 1), aflags=aflags))
case('ata-aflag-a-write', ['4/async', '15/34', '4.1/34'], 'An asynchronous write is answered when it is durable, as any other', frame(0, ata(0x34, 9, 1, aflags=0x43, data=fill(4, 1))),
     ata_says(0x34, 9, aflags=0x43), then=[still_read(9, fill(4, 1))])
case('ata-aflag-no-w', ['4/write-flag', '15/32', '4.1/34'], 'A write without the W flag is a write', frame(0, ata(0x34, 9, 1, aflags=0x40, data=fill(4, 1))),
     ata_says(0x34, 9, aflags=0x40), then=[still_read(9, fill(4, 1))])
case('ata-reserved-bytes', ['4/good'], 'Junk in the reserved bytes is not echoed', frame(0, ata(0x24, 9, 1, reserved=b'\x5a\xa5')), ata_says(0x24, 9, 0, disk(9, 1)))
case('ata-feature-read', ['4/good', '15/33'], 'A feature on a read: error 0, count 0, address kept in the answer', frame(0, ata(0x24, 9, 2, feature=0x77)), ata_says(0x24, 9, 0, disk(9, 2)))
case('ata-bad-aflags', ['4/failed', '15/27'], 'A failed command: AFlags and address kept, E clear, no data', frame(0, ata(0x24, 0x112233445566, 1, aflags=0x5a)), no_such(0x24, 0x112233445566, 1, aflags=0x5a))
case('ata-padding-clean', ['2/replies', '4/good'], 'The padding of the answer to a write holds nothing of its data', frame(0, ata(0x34, 9, 1, data=b'\x5a' * 512)), ata_says(0x34, 9))
case('ata-order-reserved-unknown', ['4/order-2', '7/denied'], 'Reservation before opcode: an unknown opcode by a stranger', frame(0, ata(0x99), src=A), refuses(0, 6, ata(0x99), to=A), setup=[HELD])
case('ata-order-reserved-range', ['4/order-2', '7/denied'], 'Reservation before range', frame(0, ata(0x24, 5000, 1), src=A), refuses(0, 6, ata(0x24, 5000, 1), to=A), setup=[HELD])
case('ata-order-count-range', ['4/order-4'], 'Count before range', frame(0, ata(0x24, 5000, 3)), aborted(0x24, 5000, 3))
case('ata-order-data-range', ['4/order-5'], 'Data before range', frame(0, ata(0x34, 5000, 2, data=fill(1, 1))), aborted(0x34, 5000, 2))
case('ata-order-range-ro', ['4/order-6', '4/order-7'], 'Range before read-only', frame(0, ata(0x34, 5000, 1, data=fill(1, 1))), no_such(0x34, 5000, 1), pre={'read_only': True})
case('ata-full-disk', ['4/order-8'], 'A write for which the device has no room: no status of a good write', frame(0, ata(0x34, 9, 1, data=fill(1, 1))), ata_says(0x34, 9, 1, status=0x61, error=4),
     pre={'fault': ['write', 28]}, runs='core', then=[still_read(9), then(0, ata(0x34, 9, 1, data=fill(2, 1)), lambda t, s: ata_says(0x34, 9, tag=t))])
case('ata-failed-slot', ['11/4', '4/order-8'], 'After a failed write the slot promises nothing any more; it reads, and config is answered', frame(0, ata(0x34, 9, 1, data=fill(1, 1))),
     ata_says(0x34, 9, 1, status=0x61, error=4), pre={'fault': ['write', 5]}, runs='core',
     then=[then(0, ata(0x34, 9, 1, data=fill(2, 1)), lambda t, s: ata_says(0x34, 9, 1, status=0x61, error=4, tag=t)), then(0, ata(0xea), lambda t, s: ata_says(0xea, status=0x61, error=4, tag=t)),
           still_read(9), string_is(b'')])

for op in (0xe7, 0xea):
    row = f'4.1/{op:02X}'
    flush = ['15/28'] if op == 0xe7 else ['15/29']
    case(f'ata-{op:02x}-good', [row, *flush, '15/27'], f'{op:02X} after a write', frame(0, ata(op, feature=0x77)), ata_says(op), 'must', setup=[frame(0, ata(0x34, 9, 1, data=fill(1, 1)))])
    case(f'ata-{op:02x}-registers', [row], f'{op:02X} has no range and no count', frame(0, ata(op, 0xffffff, 200)), ata_says(op, 0xffffff))
    case(f'ata-{op:02x}-read-only', [row], f'{op:02X} on a read-only slot', frame(0, ata(op)), ata_says(op), pre={'read_only': True})
    case(f'ata-{op:02x}-fails', [row, '4/order-8'], f'{op:02X} that the device fails', frame(0, ata(op)), ata_says(op, status=0x61, error=4), pre={'fault': ['flush', 5]}, runs='core',
         then=[then(0, ata(op), lambda t, s, op=op: ata_says(op, status=0x61, error=4, tag=t))], why='The kernel reports a loss once: a second flush that succeeds proves nothing.')
    case(f'ata-{op:02x}-reserved', [row, '7/denied', '15/39'], f'{op:02X} by a stranger while reserved', frame(0, ata(op), src=A), refuses(0, 6, ata(op), to=A), setup=[HELD])
case('ata-e5-good', '4.1/E5', 'CHECK POWER MODE, with registers full of junk', frame(0, ata(0xe5, 0x1234, 7, feature=9)), ata_says(0xe5, 0x1234, 0xff))
for op in (0x40, 0x42):
    row = f'4.1/{op:02X}'
    case(f'ata-{op:02x}-good', row, f'{op:02X}, two sectors: no data comes back', frame(0, ata(op, 2046, 2)), ata_says(op, 2046), 'may')
    case(f'ata-{op:02x}-behind', [row, '15/26'], f'{op:02X} behind the end', frame(0, ata(op, 2048, 1)), no_such(op, 2048, 1), 'may')
    case(f'ata-{op:02x}-across', [row, '15/26'], f'{op:02X} across the end', frame(0, ata(op, 2047, 2)), no_such(op, 2047, 2), 'may')
    case(f'ata-{op:02x}-none', [row, '15/23'], f'{op:02X} with count 0', frame(0, ata(op, 0, 0)), aborted(op), 'may')
    case(f'ata-{op:02x}-many', [row, '15/24'], f'{op:02X} of more sectors than advertised', frame(0, ata(op, 0, 3)), aborted(op, 0, 3), 'may')
    case(f'ata-{op:02x}-medium', row, f'{op:02X} of a sector that cannot be read', frame(0, ata(op, 9, 1)), ata_says(op, 9, 1, status=0x41, error=0x40), 'may', pre={'fault': ['read', 5]}, runs='core')
case('ata-3d-durable', ['4.1/3D', '15/34'], 'WRITE DMA FUA EXT on a slot with a write cache', frame(0, ata(0x3d, 9, 1, data=fill(1, 1))), ata_says(0x3d, 9), 'may',
     pre={'write_cache': True}, then=[still_read(9, fill(1, 1))])
for feature, name in ((0x03, 'transfer mode'), (0xaa, 'look-ahead on'), (0x55, 'look-ahead off'), (0x82, 'write cache off, and it is off')):
    case(f'ata-ef-{feature:02x}', '4.1/EF', f'SET FEATURES {name}', frame(0, ata(0xef, 0, 8, feature=feature)), ata_says(0xef), 'may')
case('ata-ef-02', '4.1/EF', 'SET FEATURES write cache on, which there is not', frame(0, ata(0xef, feature=2)), aborted(0xef), 'may')
case('ata-ef-02-cache', '4.1/EF', 'SET FEATURES write cache on, and it is on', frame(0, ata(0xef, feature=2)), ata_says(0xef), 'may', pre={'write_cache': True})
case('ata-ef-82-cache', '4.1/EF', 'SET FEATURES write cache off, which cannot be', frame(0, ata(0xef, feature=0x82)), aborted(0xef), 'may', pre={'write_cache': True})
for feature in (0x00, 0x05, 0x10, 0xff):
    case(f'ata-ef-{feature:02x}', '4.1/EF', f'SET FEATURES {feature:02X}, unknown', frame(0, ata(0xef, feature=feature)), aborted(0xef), 'may')
case('ata-90', '4.1/90', 'EXECUTE DEVICE DIAGNOSTIC: error register 01 says passed', frame(0, ata(0x90)), ata_says(0x90, error=1), 'may')
for op, name in ((0x91, 'INITIALIZE DEVICE PARAMETERS'), (0xc6, 'SET MULTIPLE MODE'), (0xe0, 'STANDBY IMMEDIATE'), (0xe1, 'IDLE IMMEDIATE'), (0xe2, 'STANDBY'), (0xe3, 'IDLE'), (0xe6, 'SLEEP')):
    case(f'ata-{op:02x}', f'4.1/{op:02X}', name, frame(0, ata(op, 0, 16)), ata_says(op), 'may', then=[still_read(3)])
last28 = lambda n: min(n - 1, (1 << 28) - 1)
for op, name, n in ((0x27, 'small', 2048), (0xf8, 'small', 2048), (0x27, 'big', 1 << 32), (0xf8, 'big', 1 << 32)):
    last = last28(n) if op == 0xf8 else n - 1
    e = ata_says(op, last)
    if op == 0xf8: e.update(dont_care=[[31, 3]], constraints=[{'field': 'LBA3', 'offset': 31, 'size': 1, 'mask': 0x0f, 'equals': last >> 24}])
    case(f'ata-{op:02x}-{name}', f'4.1/{op:02X}', f'READ NATIVE MAX ADDRESS{" EXT" if op == 0x27 else ""} of {n} sectors', frame(0, ata(op)), e, 'may', pre={'sectors': n} if n != 2048 else {})
for op in (0x2f, 0x3f, 0x92, 0xb1, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6):
    case(f'ata-{op:02x}', f'4.1/{op:02X}', f'{op:02X} is aborted, as by a drive without it', frame(0, ata(op, 1, 1, aflags=0x40)), aborted(op, 1, 1, aflags=0x40), 'may')
for op in (0x00, 0x08, 0x10, 0x22, 0x31, 0x60, 0x61, 0x70, 0x99, 0xa0, 0xa1, 0xcd, 0xce, 0xde, 0xed, 0xff):
    case(f'ata-other-{op:02x}', ['4.1/other', '4/order-3'], f'Opcode {op:02X}: aborted', frame(0, ata(op, 5, 1, aflags=0x41, data=fill(1, 1))), aborted(op, 5, 1, aflags=0x41), 'must', then=[still_read(5)])

# TRIM
def ranges(*r): return pad(b''.join(le(lba, 6) + le(n, 2) for lba, n in r), 512)
trim = lambda pages, count=None, **more: ata(0x06, more.pop('lba', 0), len(pages) // 512 if count is None else count, feature=more.pop('feature', 1), data=pages, **more)
ZERO = bytes(512)
TRIM = {'trim': True}
case('trim-one', '4.1/06', 'TRIM of eight sectors: they read zero, their neighbours stay', frame(0, trim(ranges((64, 8)))), ata_says(6), 'may', TRIM,
     then=[still_read(63), still_read(64, ZERO * 2), still_read(70, ZERO * 2), still_read(72)])
case('trim-many', '4.1/06', 'TRIM of several ranges, one of them unused', frame(0, trim(ranges((8, 8), (1 << 40, 0), (2040, 8), (1000, 1)))), ata_says(6), 'may', TRIM,
     then=[still_read(8, ZERO), still_read(2047, ZERO), still_read(1001)])
case('trim-pages', '4.1/06', 'TRIM with two pages: the second counts too', frame(0, trim(ranges((8, 8)) + ranges((128, 8)))), ata_says(6), 'may', TRIM, then=[still_read(8, ZERO), still_read(128, ZERO)])
case('trim-empty', '4.1/06', 'TRIM of nothing', frame(0, trim(ranges())), ata_says(6), 'may', TRIM, then=[still_read(0)])
case('trim-whole', '4.1/06', 'TRIM of the whole disk', frame(0, trim(ranges((0, 2048)))), ata_says(6), 'may', TRIM, then=[still_read(0, ZERO), still_read(2047, ZERO)])
case('trim-behind', ['4.1/06', '15/26'], 'TRIM with a range behind the end: nothing is done', frame(0, trim(ranges((64, 8), (2048, 1)))), no_such(6, 0, 1), 'may', TRIM, then=[still_read(64)])
case('trim-across', ['4.1/06', '15/26'], 'TRIM across the end', frame(0, trim(ranges((2040, 9)))), no_such(6, 0, 1), 'may', TRIM, then=[still_read(2040)])
case('trim-far', ['4.1/06', '15/26'], 'TRIM at the highest address: no overflow', frame(0, trim(ranges(((1 << 48) - 1, 65535)))), no_such(6, 0, 1), 'may', TRIM)
case('trim-none', ['4.1/06', '15/23'], 'TRIM with count 0', frame(0, trim(ranges((64, 8)), count=0)), aborted(6, 0, 0), 'may', TRIM, then=[still_read(64)])
case('trim-over', ['4.1/06', '15/24'], 'TRIM with more pages than sectors are advertised', frame(0, trim(ranges((64, 8)), count=3)), aborted(6, 0, 3), 'may', TRIM, then=[still_read(64)])
case('trim-short', ['4.1/06', '15/25'], 'TRIM with a page missing', frame(0, trim(ranges((64, 8)), count=2)), aborted(6, 0, 2), 'may', TRIM, then=[still_read(64)])
case('trim-no-feature', '4.1/06', 'DATA SET MANAGEMENT without the TRIM bit', frame(0, trim(ranges((64, 8)), feature=0)), aborted(6, 0, 1), 'may', TRIM, then=[still_read(64)])
case('trim-read-only', ['4.1/06', '15/30'], 'TRIM on a read-only slot', frame(0, trim(ranges((64, 8)))), aborted(6, 0, 1), 'may', {'read_only': True}, then=[still_read(64)])
case('trim-unserved', '4.1/06', 'TRIM where the backing cannot', frame(0, trim(ranges((64, 8)))), aborted(6, 0, 1), 'may', {'trim': False}, runs='core', then=[still_read(64)])
case('trim-fails', ['4.1/06', '4/order-8'], 'TRIM that the device fails', frame(0, trim(ranges((64, 8)))), ata_says(6, 0, 1, status=0x61, error=4), 'may', {'trim': True, 'fault': ['trim', 5]}, runs='core')
case('trim-jumbo', '4.1/06', 'TRIM with sixteen pages', frame(0, trim(b''.join(ranges((8 * i, 8)) for i in range(16)))), ata_says(6), 'may', {'trim': True, 'mtu': 9000},
     then=[still_read(0, ZERO), still_read(120, ZERO), still_read(128)])

# SMART
KEY = 0x4f << 8 | 0xc2 << 16
smart = lambda feature, lba=KEY, count=1, **more: ata(0xb0, lba, count, feature=feature, **more)
page = lambda feature, lba=KEY: paged(0xb0, lba)
case('smart-d0', '4.1/B0', 'SMART READ DATA: a page whose sum is 0', frame(0, smart(0xd0)), {**page(0xd0), 'constraints': [{'field': 'checksum', 'offset': 36, 'size': 512, 'sum': True, 'equals': 0}]}, 'may')
case('smart-d5-0', '4.1/B0', 'SMART READ LOG 0, the directory: version 1', frame(0, smart(0xd5)), {**page(0xd5), 'constraints': [{'field': 'version', 'offset': 36, 'size': 2, 'mask': 0xffff, 'equals': 1}]}, 'may')
case('smart-d5-1', '4.1/B0', 'SMART READ LOG 1, errors: a page whose sum is 0', frame(0, smart(0xd5, KEY | 1)), {**page(0xd5, KEY | 1), 'constraints': [{'field': 'checksum', 'offset': 36, 'size': 512, 'sum': True, 'equals': 0}]}, 'may')
case('smart-d5-9', '4.1/B0', 'SMART READ LOG of a log there is not', frame(0, smart(0xd5, KEY | 9)), aborted(0xb0, KEY | 9, 1), 'may')
case('smart-d6', '4.1/B0', 'SMART WRITE LOG', frame(0, smart(0xd6, KEY | 9, aflags=1, data=fill(1, 1))), aborted(0xb0, KEY | 9, 1, aflags=1), 'may')
for f, name in ((0xd4, 'off-line immediate'), (0xd8, 'enable'), (0xd9, 'disable')):
    case(f'smart-{f:02x}', '4.1/B0', f'SMART {name}', frame(0, smart(f, count=0)), ata_says(0xb0, KEY), 'may')
case('smart-da', '4.1/B0', 'SMART RETURN STATUS: healthy, as far as is known', frame(0, smart(0xda, count=0)), ata_says(0xb0, KEY), 'may')
case('smart-da-failing', '4.1/B0', 'SMART RETURN STATUS of a failing device', frame(0, smart(0xda, count=0)), ata_says(0xb0, 0xf4 << 8 | 0x2c << 16), 'may', {'health': 'failing'}, runs='core')
case('smart-da-aoeping', '4.1/B0', "aoeping's way: write flag in the AoE header, trailing sector", frame(0, smart(0xd6, aflags=0, data=fill(1, 1)), ver=0x11), aborted(0xb0, KEY, 1, aflags=0), 'may')
case('smart-off', '4.1/B0', 'SMART switched off answers nothing until it is switched on', frame(0, smart(0xd9, count=0)), ata_says(0xb0, KEY), 'may',
     then=[then(0, smart(0xda, count=0), lambda t, s: aborted(0xb0, KEY, tag=t)), then(0, smart(0xd8, count=0), lambda t, s: ata_says(0xb0, KEY, tag=t)),
           then(0, smart(0xda, count=0), lambda t, s: ata_says(0xb0, KEY, tag=t))])
for f in (0xd0, 0xd5, 0xd8, 0xda):
    case(f'smart-{f:02x}-no-key', '4.1/B0', f'SMART {f:02X} without its key', frame(0, smart(f, 0xc2 << 8 | 0x4f << 16)), aborted(0xb0, 0xc2 << 8 | 0x4f << 16, 1), 'may')
case('smart-unknown', '4.1/B0', 'SMART with an unknown sub-command', frame(0, smart(0xdf)), aborted(0xb0, KEY, 1), 'may')

# IDENTIFY
ident = lambda: paged(0xec)
def word(n, equals, mask=0xffff, count=1): return {'field': f'word {n}', 'offset': 36 + 2 * n, 'size': 2 * count, 'mask': mask if count == 1 else (1 << 16 * count) - 1, 'equals': equals}
def identify(id, rule, title, *constraints, level='should', pre=None, runs=None):
    case(id, [rule, '4.1/EC'], title, frame(0, ata(0xec, 0, 1)), {**ident(), 'constraints': list(constraints)}, level, pre, runs=runs)
identify('id-config', '4.2/0', 'Word 0: a fixed ATA device', word(0, 0x0040))
identify('id-chs', '4.2/1-6', 'CHS of a small disk: cylinders, 16 heads, 63 sectors', word(1, 2048 // 1008), word(3, 16), word(6, 63))
identify('id-chs-big', '4.2/1-6', 'CHS of a large disk: 16383, 16, 63', word(1, 16383), word(3, 16), word(6, 63), pre={'sectors': 1 << 32})
identify('id-47-50', '4.2/47-50', 'Words 47, 49, 50: LBA', word(47, 0x8000), word(49, 0x0200, 0x0200), word(50, 0x4000), level='must')
identify('id-current', '4.2/53-58', 'Words 53 to 58: current geometry and its product', word(53, 1, 1), word(54, 2), word(55, 16), word(56, 63), word(57, 2 * 1008, count=2))
identify('id-lba28', '4.2/60-61', 'Words 60 and 61: sectors', word(60, 2048, count=2), level='must')
identify('id-lba28-big', '4.2/60-61', 'Words 60 and 61 are capped', word(60, 0x0fffffff, count=2), level='must', pre={'sectors': 1 << 32})
identify('id-modes', '4.2/63-88', 'No transfer modes', word(63, 0), word(64, 0), word(88, 0))
identify('id-queue', '4.2/75-76', 'No queue, no SATA', word(75, 0), word(76, 0))
identify('id-version', '4.2/80', 'Word 80: ATA-4 to ATA-7', word(80, 0xf0))
identify('id-cache-off', '4.2/82', 'Words 82 and 85: no write cache, SMART is served', word(82, 0, 0x20), word(85, 0, 0x20), word(82, 1, 1), word(85, 1, 1))
identify('id-cache-on', '4.2/82', 'Words 82 and 85 tell of a write cache', word(82, 0x20, 0x20), word(85, 0x20, 0x20), pre={'write_cache': True})
identify('id-lba48', '4.2/83', 'Words 83 and 86: LBA48, both flushes', word(83, 0x7400), word(86, 0x3400), level='must')
identify('id-84', '4.2/84', 'Words 84 and 87: valid; no name of its own', word(84, 0x4000, 0xfeff), word(87, 0x4000, 0xfeff))
identify('id-93', '4.2/93', 'Word 93 is 0', word(93, 0))
identify('id-size', '4.2/100', 'Words 100 to 103: sectors, and word 103 is 0', word(100, 2048, count=4), level='must')
identify('id-size-big', '4.2/100', 'The size of a disk beyond 32 bits', word(100, (1 << 32) + 5, count=4), level='must', pre={'sectors': (1 << 32) + 5})
identify('id-size-one', '4.2/100', 'A disk of one sector', word(100, 1, count=4), word(60, 1, count=2), word(1, 0), pre={'sectors': 1})
identify('id-trim-served', '4.2/169', 'Word 169 tells of TRIM', word(169, 1, 1), pre={'trim': True})
identify('id-trim-unserved', '4.2/169', 'Words 105 and 169 without TRIM', word(169, 0, 1), word(105, 0), pre={'trim': False}, runs='core')
def text(n, words, string):
    """Characters of a text in the words from n on: two to a word, the first in its high byte."""
    padded = string.encode().ljust(2 * words)
    data = bytearray(512)
    data[2 * n:2 * (n + words)] = b''.join(padded[i + 1:i + 2] + padded[i:i + 1] for i in range(0, len(padded), 2))
    f = answer(0, done(0xec, data=bytes(data)))
    return {'reply': True, 'response_hex': f[:36 + 2 * (n + words)].hex(), 'significant_bytes': 36, 'compare_only': [[0, 36], [36 + 2 * n, 2 * words]], 'length': 548}
NAMED = {'serial': 'SN-0815', 'firmware': '12345678', 'model': 'A model of forty characters, no more, no', 'wwn': '5000c50a1234abcd'}
for key, n, words in (('serial', 10, 10), ('firmware', 23, 4), ('model', 27, 20)):
    string = NAMED[key]
    case(f'id-{key}', [f'4.2/{n}-{n + words - 1}', '4.1/EC'], f'Words {n} to {n + words - 1}: the {key}, blanks behind it', frame(0, ata(0xec, 0, 1)), text(n, words, string), pre=NAMED)
identify('id-blocks', '4.2/106', 'Words 106 and 209: 4 KiB blocks, the third sector of one comes first', word(106, 0x6003), word(209, 0x4002), pre={'physical_block': 4096, 'misalignment': 1024}, runs='core')
identify('id-blocks-aligned', '4.2/106', 'The same, aligned', word(106, 0x6003), word(209, 0x4000), word(117, 0), pre={'physical_block': 4096}, runs='core')
identify('id-wwn', '4.2/108', 'Words 84, 87 and 108 to 111: world wide name', word(84, 0x0100, 0x0100), word(87, 0x0100, 0x0100), word(108, 0x5000), word(109, 0xc50a), word(110, 0x1234), word(111, 0xabcd), pre=NAMED)
identify('id-no-wwn', '4.2/108', 'Without one', word(84, 0, 0x0100), word(87, 0, 0x0100), word(108, 0, count=4), runs='core')
identify('id-rotates', '4.2/217', 'Word 217 of a disk that rotates', word(217, 0), pre={'rotational': True}, runs='core')
identify('id-rests', '4.2/217', 'Word 217 of one that does not', word(217, 1), runs='core')
identify('id-checksum', '4.2/255', 'Word 255: signature, and the sum of all bytes is 0', word(255, 0xa5, 0xff), {'field': 'checksum', 'offset': 36, 'size': 512, 'sum': True, 'equals': 0})
for n in (0, 2, 255):
    case(f'id-count-{n}', ['4.1/EC', '15/22'], f'IDENTIFY with count {n}', frame(0, ata(0xec, 0, n)), ident(), 'must')
case('id-junk', ['4.1/EC'], 'IDENTIFY with all flags, address and reserved bytes', frame(0, ata(0xec, (1 << 48) - 1, 1, aflags=0x5f, reserved=b'\x11\x22')),
     paged(0xec, (1 << 48) - 1, aflags=0x5f))
case('id-sancheck', ['4.1/EC', '4.3/sancheck', '15/46'], 'IDENTIFY with payload (aoe-sancheck): the answer is no longer', frame(0, ata(0xec, 0, 1, data=bytes(1400))), ident(), 'must')
case('id-sancheck-jumbo', ['4.3/sancheck', '15/46'], 'IDENTIFY with 8,192 bytes of payload', frame(0, ata(0xec, 0, 1, data=bytes(8192))), ident(), 'must', {'mtu': 9000})
case('read-sancheck-jumbo', ['4.3/sancheck', '15/46'], 'READ EXT of LBA 0 with 8,192 bytes of payload (the path probe of Linux)', frame(0, ata(0x24, 0, 1, data=bytes(8192))), ata_says(0x24, 0, 0, disk(0, 1)), 'must', {'mtu': 9000})
for mtu, n in ((1500, 2), (2084, 4), (4131, 4), (4132, 8), (8227, 8), (8228, 16), (9000, 16)):
    case(f'sectors-{mtu}', ['4.3/count', '15/43', '15/42'], f'At MTU {mtu} {n} sectors are advertised', frame(1, cfg(0)), cfg_says(0, sectors=n), pre={'mtu': mtu}, runs=None if mtu in (1500, 9000) else 'core')
    case(f'sectors-{mtu}-read', ['4.3/count', '15/24'], f'At MTU {mtu} {n} sectors are read at once', frame(0, ata(0x24, 7, n)), ata_says(0x24, 7, 0, disk(7, n)), 'must', {'mtu': mtu}, runs=None if mtu in (1500, 9000) else 'core')
    case(f'sectors-{mtu}-over', ['4.3/count', '15/24', '4.3/probe'], f'At MTU {mtu} {n + 1} sectors are refused with a short frame', frame(0, ata(0x24, 7, n + 1)), aborted(0x24, 7, n + 1), pre={'mtu': mtu}, runs=None if mtu in (1500, 9000) else 'core')
for n in (1, 7, 8, 9, 16):
    case(f'jumbo-write-{n}', ['4.1/34', '4/good'], f'{n} sectors in a jumbo frame', frame(0, ata(0x34, 20, n, data=fill(n, n))), ata_says(0x34, 20), 'must', {'mtu': 9000},
         then=[still_read(20, fill(n, n)), still_read(20 + n)])
    case(f'jumbo-read-{n}-sectors', ['4.1/24', '15/45'], f'{n} sectors come back exactly', frame(0, ata(0x24, 20, n)), ata_says(0x24, 20, 0, disk(20, n)), 'must', {'mtu': 9000})
case('write-dup-other-tag', ['10/duplicates', '15/35'], 'A copy of a write under a new tag gets an answer of its own', frame(0, ata(0x34, 9, 1, data=fill(1, 1))), ata_says(0x34, 9), 'must',
     setup=[frame(0, ata(0x34, 9, 1, data=fill(1, 1)), tag=b'\0\0\0\1')], then=[still_read(9, fill(1, 1))])

# ---------------------------------------------------------------- 5: config
case('cfg-fields', ['5/header', '10/buffers', '15/42'], 'Fields of a read request mean nothing', frame(1, cfg(0, b'', length=0xffff, buffers=0xffff, firmware=0xffff, sectors=255)), cfg_says(0), 'must')
for n in range(16):
    if n <= 5: continue
    case(f'cfg-ccmd-{n:x}', ['5/other'], f'Config command {n}: error 2, string untouched', frame(1, cfg(n, b'x')), refuses(1, 2, cfg(n, b'', length=1)), 'must', setup=[HELLO], then=[string_is(b'hello')])
case('cfg-read-long-length', ['5/0', '15/14'], 'A read with length 65535 is answered', frame(1, cfg(0, b'', length=0xffff)), cfg_says(0, b'hello'), 'must', setup=[HELLO])
case('cfg-test-longer', ['5/1', '15/18'], 'Test with one byte more than the string', frame(1, cfg(1, b'hello!')), SILENCE, 'must', setup=[HELLO])
case('cfg-test-other', ['5/1', '15/18'], 'Test with another string of the same length', frame(1, cfg(1, b'hellp')), SILENCE, 'must', setup=[HELLO])
case('cfg-test-nothing', ['5/1', '15/18'], 'Test for the empty string against a string', frame(1, cfg(1)), SILENCE, 'must', setup=[HELLO])
case('cfg-test-binary', ['5/1', '5/string'], 'A string of all byte values, and a test for it', frame(1, cfg(1, bytes(range(256)))), cfg_says(1, bytes(range(256))), 'must', setup=[frame(1, cfg(4, bytes(range(256))))])
case('cfg-test-nul', ['5/1', '5/string'], 'A zero byte ends nothing', frame(1, cfg(1, b'a\0b')), SILENCE, 'must', setup=[frame(1, cfg(4, b'a\0c'))])
case('cfg-prefix', ['5/2'], 'Prefix test', frame(1, cfg(2, b'hel')), cfg_says(2, b'hello'), 'must', setup=[HELLO])
case('cfg-prefix-whole', ['5/2'], 'Prefix test with the whole string', frame(1, cfg(2, b'hello')), cfg_says(2, b'hello'), 'must', setup=[HELLO])
case('cfg-prefix-empty', ['5/2'], 'Prefix test with nothing matches', frame(1, cfg(2)), cfg_says(2, b'hello'), 'must', setup=[HELLO])
case('cfg-prefix-empty-empty', ['5/2'], 'Prefix test with nothing against nothing', frame(1, cfg(2)), cfg_says(2), 'must')
case('cfg-prefix-other', ['5/2'], 'Prefix test without a match', frame(1, cfg(2, b'hex')), SILENCE, 'must', setup=[HELLO])
case('cfg-set-first', ['5/3', '15/16'], 'Set on an empty string', frame(1, cfg(3, b'host-a')), cfg_says(3, b'host-a'), 'must', then=[string_is(b'host-a')])
case('cfg-set-repeat', ['5/3', '5/identical', '15/15'], 'Set, its answer lost, set again', frame(1, cfg(3, b'host-a')), cfg_says(3, b'host-a'), setup=[frame(1, cfg(3, b'host-a'), tag=b'\0\0\0\1')], then=[string_is(b'host-a')])
case('cfg-set-loses', ['5/3', '15/17'], 'Set against another string: error 4 and the string in force', frame(1, cfg(3, b'host-b'), src=A), cfg_says(3, b'host-a', 4, A), 'must', setup=[frame(1, cfg(3, b'host-a'))],
     then=[string_is(b'host-a')])
case('cfg-set-prefix', ['5/3', '15/17'], 'Set to the beginning of the string in force is another string', frame(1, cfg(3, b'hell')), cfg_says(3, b'hello', 4), 'must', setup=[HELLO])
case('cfg-set-nothing', ['5/3'], 'Set to nothing against a string does not clear it', frame(1, cfg(3)), cfg_says(3, b'hello', 4), 'must', setup=[HELLO], then=[string_is(b'hello')])
case('cfg-set-nothing-empty', ['5/3', '5/identical'], 'Set to nothing where nothing is', frame(1, cfg(3)), cfg_says(3))
case('cfg-force-clear', ['5/4'], 'Force set of length 0 clears', frame(1, cfg(4)), cfg_says(4), 'must', setup=[HELLO], then=[string_is(b'')])
case('cfg-force-stranger', ['5/4', '5/locking'], 'Force set by another host', frame(1, cfg(4, b'mine'), src=A), cfg_says(4, b'mine', to=A), 'must', setup=[HELLO], then=[string_is(b'mine')])
case('cfg-lock', ['5/locking'], 'Take, lose, release, take over', frame(1, cfg(3, b'a')), cfg_says(3, b'a'), 'must',
     then=[then(1, cfg(3, b'b'), lambda t, s: cfg_says(3, b'a', 4, s, t), src=A), then(1, cfg(4), lambda t, s: cfg_says(4, tag=t)),
           then(1, cfg(3, b'b'), lambda t, s: cfg_says(3, b'b', to=s, tag=t), src=A), string_is(b'b')])
case('cfg-replace', ['5/5'], 'Test and replace', frame(1, cfg(5, swap(b'hello', b'world!'), length=5)), cfg_says(5, b'world!'), 'may', setup=[HELLO], then=[string_is(b'world!')])
case('cfg-replace-empty', ['5/5'], 'Test and replace of nothing by something', frame(1, cfg(5, swap(b'', b'x'), length=0)), cfg_says(5, b'x'), 'may', then=[string_is(b'x')])
case('cfg-replace-clear', ['5/5'], 'Test and replace by nothing', frame(1, cfg(5, swap(b'hello', b''), length=5)), cfg_says(5), 'may', setup=[HELLO], then=[string_is(b'')])
case('cfg-replace-repeat', ['5/5', '5/identical'], 'Test and replace again, after its answer was lost', frame(1, cfg(5, swap(b'hello', b'world!'), length=5)), cfg_says(5, b'world!'), 'may',
     setup=[HELLO, frame(1, cfg(5, swap(b'hello', b'world!'), length=5), tag=b'\0\0\0\1')], then=[string_is(b'world!')])
case('cfg-replace-loses', ['5/5'], 'Test and replace against another string', frame(1, cfg(5, swap(b'hullo', b'x'), length=5)), cfg_says(5, b'hello', 4), 'may', setup=[HELLO], then=[string_is(b'hello')])
case('cfg-replace-no-new', ['5/5', '5/length'], 'Test and replace without the second length', frame(1, cfg(5, b'hello'), size=0), refuses(1, 2, cfg(5, b'', length=5)), 'may', setup=[HELLO], then=[string_is(b'hello')])
case('cfg-replace-short', ['5/5', '5/length'], 'Test and replace with less than the second length says', frame(1, cfg(5, b'hello' + be(40, 2) + b'x', length=5), size=0), refuses(1, 2, cfg(5, b'', length=5)), 'may',
     setup=[HELLO], then=[string_is(b'hello')])
case('cfg-replace-long', ['5/5', '5/length'], 'Test and replace by 1025 bytes', frame(1, cfg(5, b'hello' + be(1025, 2) + bytes(1025), length=5)), refuses(1, 2, cfg(5, b'', length=5)), 'may',
     setup=[HELLO], then=[string_is(b'hello')])
LONG = fill(5, 2)
for cmd, name in ((3, 'set'), (4, 'force set')):
    case(f'cfg-1024-{cmd}', [f'5/{cmd}', '5/string'], f'{name} of 1024 bytes', frame(1, cfg(cmd, LONG)), cfg_says(cmd, LONG), 'must', then=[string_is(LONG)])
for cmd, name in ((1, 'test'), (2, 'prefix test'), (3, 'set'), (4, 'force set'), (5, 'test and replace')):
    case(f'cfg-1025-{cmd}', ['5/length', '15/14'], f'{name} of 1025 bytes, all there', frame(1, cfg(cmd, bytes(1025) + be(1, 2) + b'x', length=1025)), refuses(1, 2, cfg(cmd, b'', length=1025)), setup=[HELLO], then=[string_is(b'hello')])
    case(f'cfg-beyond-{cmd}', ['5/length', '15/14'], f'{name} with a length beyond the frame', frame(1, cfg(cmd, b'hello', length=29)), refuses(1, 2, cfg(cmd, b'', length=29)), setup=[HELLO], then=[string_is(b'hello')])
    case(f'cfg-beyond-{cmd}-max', ['5/length', '15/14'], f'{name} with length 65535', frame(1, cfg(cmd, b'hello', length=65535)), refuses(1, 2, cfg(cmd, b'', length=65535)), setup=[HELLO], then=[string_is(b'hello')])
case('cfg-padding-counts', ['5/length'], 'A string may reach into what looks like padding', frame(1, cfg(4, b'hi', length=28)), cfg_says(4, b'hi' + bytes(26)))
case('cfg-reserved', ['5/reserved', '15/40'], 'Config set by a stranger while reserved', frame(1, cfg(3, b'x'), src=A), cfg_says(3, b'x', to=A), 'must', setup=[HELD])
case('cfg-masked', ['5/reserved', '6/silent', '11/3'], 'Config set by a masked host: silence, nothing changed', frame(1, cfg(4, b'x'), src=A), SILENCE, 'must', setup=[frame(2, mask(1, (1, I)))], then=[string_is(b'')])
case('cfg-full', ['5/persist'], 'Config set with no room on disk: error 3 and the old string', frame(1, cfg(4, b'x')), cfg_says(4, b'', 3), pre={'store': 'full'}, runs='core', then=[string_is(b'')])
case('cfg-full-replace', ['5/persist'], 'Test and replace with no room on disk', frame(1, cfg(5, swap(b'', b'x'), length=0)), cfg_says(5, b'', 3), 'may', pre={'store': 'full'}, runs='core', then=[string_is(b'')])
again = lambda step: {**step, 'restart': True}
case('cfg-restart', ['5/persist', '15/19'], 'The string survives a restart', frame(1, cfg(3, b'host-a')), cfg_says(3, b'host-a'), then=[again(string_is(b'host-a')), then(1, cfg(3, b'b'), lambda t, s: cfg_says(3, b'host-a', 4, tag=t))])
case('mask-restart', ['6/persist'], 'The mask list survives a restart', frame(2, mask(1, (1, I), (1, B))), expect(answer(2, maclist(1, I, B))), then=[again(mask_is(I, B)), quiet(1, cfg(0), src=A)])
case('rsv-restart', ['7/persist'], 'The reservation survives a restart', frame(3, rsv(1, I, B)), expect(answer(3, rsv(1, I, B))), then=[again(rsv_is(I, B))])
case('cfg-announced', ['9/change', '15/21'], 'A changed string is announced, with the string', frame(1, cfg(4, b'news')), cfg_says(4, b'news'),
     then=[{'request_hex': None, 'expect': cfg_says(0, b'news', to=BC, tag=bytes(4))}])

case('announce-masked', ['9/mask'], 'Where a mask is set, each listed host is told', frame(1, cfg(4, b'news')), cfg_says(4, b'news'), setup=[frame(2, mask(1, (1, I), (1, B)))],
     then=[{'request_hex': None, 'expect': cfg_says(0, b'news', tag=bytes(4))}])
case('cfg-firmware', ['5/header', '15/44'], 'The firmware field is big-endian: version 0.x', frame(1, cfg(0)), {**cfg_says(0), 'constraints': [{'field': 'firmware', 'offset': 26, 'size': 2, 'min': 1, 'max': 255}]})

# ---------------------------------------------------------------- 6: mask
ME = frame(2, mask(1, (1, I)))
case('mask-read-empty', ['6/read'], 'Read an empty list', frame(2, mask(0)), expect(answer(2, mask(0))), 'must')
case('mask-read-junk', ['6/read'], 'A read ignores MError, count and directives', frame(2, mask(0, (1, A), err=2)), expect(answer(2, mask(0))), then=[mask_is()])
case('mask-reserved-byte', ['6/reserved'], 'Junk in the reserved bytes is ignored and not echoed', frame(2, bytes([9, 1, 0, 1, 7, 1]) + I), expect(answer(2, maclist(1, I))))
for cmd in (2, 9, 255):
    case(f'mask-cmd-{cmd}', ['6/unknown'], f'Mask command {cmd}: error 2', frame(2, mask(cmd, (1, A))), refuses(2, 2, mask(cmd, count=1)), 'must', then=[mask_is()])
case('mask-nothing', ['6/edit'], 'Directive 0 does nothing', frame(2, mask(1, (0, A), (1, I))), expect(answer(2, maclist(1, I))))
case('mask-edit-none', ['6/edit'], 'An edit without directives is a read', frame(2, mask(1)), expect(answer(2, maclist(1, I))), setup=[ME])
case('mask-order', ['6/order'], 'Directives are worked in order', frame(2, mask(1, (1, A), (2, A), (1, B), (1, I))), expect(answer(2, maclist(1, B, I))), 'must')
case('mask-order-2', ['6/order'], 'Delete, then add again', frame(2, mask(1, (2, I), (1, I))), expect(answer(2, maclist(1, I))), 'must', setup=[ME])
case('mask-three', ['6/edit', '15/36'], 'Three addresses in three edits', frame(2, mask(1, (1, B))), expect(answer(2, maclist(1, I, A, B))), 'must', setup=[ME, frame(2, mask(1, (1, A)))],
     then=[mask_is(I, A, B), mask_is(I, A, B, src=B)])
case('mask-delete-last', ['6/edit', '15/36'], 'Delete the last of three', frame(2, mask(1, (2, B))), expect(answer(2, maclist(1, I, A))), 'must', setup=[frame(2, mask(1, (1, I), (1, A), (1, B)))])
case('mask-delete-all', ['6/empty', '15/36'], 'Delete everybody: all may talk', frame(2, mask(1, (2, A), (2, B), (2, I))), expect(answer(2, mask(1))), 'must', setup=[frame(2, mask(1, (1, I), (1, A), (1, B)))],
     then=[mask_is(), string_is(b'', src=A)])
for where in (0, 1, 2):
    d = [(1, A), (1, B), (1, I)]
    d[where] = (3, A)
    case(f'mask-bad-{where}', ['6/bad', '15/37'], f'Directive {where} of three is bad: its index, nothing applied', frame(2, mask(1, *d)), expect(answer(2, mask(1, err=2, count=where)), 28, trailing='any'), 'must', then=[mask_is()])
case('mask-bad-other', ['6/bad', '15/37'], 'Directive code 255', frame(2, mask(1, (255, A))), expect(answer(2, mask(1, err=2, count=0)), 28, trailing='any'), then=[mask_is()])
case('mask-bad-kept', ['6/bad', '15/37'], 'A bad directive leaves the list as it was', frame(2, mask(1, (2, I), (7, A))), expect(answer(2, mask(1, err=2, count=1)), 28, trailing='any'), setup=[ME], then=[mask_is(I)])
case('mask-count-one-over', ['6/count'], 'One directive less than the count says', frame(2, mask(1, (1, A), count=2), size=0), refuses(2, 2, mask(1, count=2)), 'must', then=[mask_is()])
case('mask-count-padding', ['6/count'], 'Padding counts as directives that do nothing', frame(2, mask(1, (1, I), count=4)), expect(answer(2, maclist(1, I))), 'must')
case('mask-lockout', ['6/lockout', '6/silent'], 'A host that locks itself out gets that answer, and then silence', frame(2, mask(1, (2, I))), expect(answer(2, maclist(1, A))), 'must',
     setup=[frame(2, mask(1, (1, I), (1, A)))], then=[quiet(1, cfg(0)), quiet(2, mask(0)), mask_is(A, src=A)])
case('mask-lockout-add', ['6/lockout'], 'Adding only another host locks the sender out', frame(2, mask(1, (1, A))), expect(answer(2, maclist(1, A))), then=[quiet(1, cfg(0)), string_is(b'', src=A)])
for cmd, name, arg in ((0, 'identify', ata(0xec, 0, 1)), (0, 'read', ata(0x24, 0, 1)), (0, 'unknown-ata', ata(0x99)), (1, 'config', cfg(0)), (1, 'bad-config', cfg(9)), (2, 'mask', mask(0)),
                       (2, 'edit', mask(1, (1, A))), (2, 'bad-mask', mask(9)), (3, 'reserve', rsv(2, A)), (4, 'keyed', b''), (0x42, 'unknown', b'')):
    case(f'masked-{name}', ['6/silent', '11/3'], f'A masked host gets nothing: {name}', frame(cmd, arg, src=A), SILENCE, 'must', setup=[ME])
case('masked-write', ['6/silent', '11/3'], 'A write by a masked host is not done', frame(0, ata(0x34, 9, 1, data=fill(1, 1)), src=A), SILENCE, 'must', setup=[ME], then=[still_read(9)])
case('masked-wild', ['6/silent', '11/3', '3/wildcards'], 'A masked host is not answered to a wildcard either', frame(1, cfg(0), src=A, **WILD), SILENCE, 'must', setup=[ME])
case('masked-listed-wild', ['6/silent', '11/3'], 'A listed host is', frame(1, cfg(0), **WILD), cfg_says(0), 'must', setup=[ME])
case('masked-broadcast', ['6/silent'], 'The source counts, not the destination', frame(1, cfg(0), src=A, dst=BC), SILENCE, 'must', setup=[ME])
mac = lambda n: bytes([2, 0, 0, 1]) + be(n, 2)
def fills(n, per=180):
    all = [I] + [mac(i) for i in range(n - 1)]
    return all, [frame(2, mask(1, *((1, m) for m in all[i:i + per]))) for i in range(0, n, per)]
FULL, full = fills(255)
case('mask-255', ['6/size'], 'The list takes 255 addresses', frame(2, mask(1, (1, FULL[254]))), expect(answer(2, maclist(1, *FULL))), pre={'mtu': 9000}, setup=fills(254)[1], then=[mask_is(*FULL), mask_is(*FULL, src=FULL[254])])
case('mask-256', ['6/size', '6/full'], 'One more: list full, nothing applied', frame(2, mask(1, (1, mac(999)))), expect(answer(2, mask(1, err=3, count=0)), 28, trailing='any'), pre={'mtu': 9000}, setup=full, then=[mask_is(*FULL)])
case('mask-full-index', ['6/full'], 'The index of the address that found no room; those before it are not added', frame(2, mask(1, (1, mac(1)), (2, mac(900)), (1, mac(998)), (1, mac(999)))),
     expect(answer(2, mask(1, err=3, count=3)), 28, trailing='any'), pre={'mtu': 9000}, setup=fills(254)[1], then=[mask_is(*FULL[:254])])
case('mask-full-known', ['6/full'], 'Adding one that is there to a full list', frame(2, mask(1, (1, mac(1)))), expect(answer(2, maclist(1, *FULL))), pre={'mtu': 9000}, setup=full)
case('mask-full-swap', ['6/full', '6/order'], 'Delete and add on a full list', frame(2, mask(1, (2, FULL[254]), (1, A))), expect(answer(2, maclist(1, *FULL[:254], A))), pre={'mtu': 9000}, setup=full)
case('mask-cut', ['6/cut'], 'A list longer than a frame of MTU 1500 is cut to what fits', frame(2, mask(0)), expect(answer(2, maclist(0, *FULL[:185]))), setup=full,
     then=[then(2, mask(1, (2, mac(0))), lambda t, s: expect(answer(2, maclist(1, I, *FULL[2:186]), tag=t)))])
case('mask-full-disk', ['6/persist'], 'A mask edit with no room on disk: the list stays', frame(2, mask(1, (1, I))), {'reply': True, 'response_hex': answer(2, mask(1, err=1)).hex(), 'significant_bytes': 27,
     'trailing': 'any', 'also_acceptable': [{'reply': True, 'response_hex': answer(2, mask(1), err=3).hex(), 'significant_bytes': 24, 'trailing': 'any'}]}, pre={'store': 'full'}, runs='core', then=[mask_is()])
case('allow-listed', ['6/allow'], 'A host on the list of the administrator is served', frame(1, cfg(0)), cfg_says(0), pre={'allow': [I.hex(':')]})
case('allow-other', ['6/allow'], 'Another one is not', frame(1, cfg(0), src=A), SILENCE, pre={'allow': [I.hex(':')]}, then=[mask_is()])
case('allow-both', ['6/allow'], 'A host has to be on both lists', frame(2, mask(1, (1, I), (1, B))), expect(answer(2, maclist(1, I, B))), pre={'allow': [I.hex(':'), A.hex(':')]},
     then=[string_is(b''), quiet(1, cfg(0), src=A), quiet(1, cfg(0), src=B)])

# ---------------------------------------------------------------- 7: reserve
HELD2 = frame(3, rsv(1, I, A))
case('rsv-read-junk', ['7/read'], 'A read ignores its count', frame(3, rsv(0, count=255)), expect(answer(3, rsv(0))))
for cmd in (3, 9, 255):
    case(f'rsv-cmd-{cmd}', ['7/unknown'], f'Reserve command {cmd}: error 2', frame(3, rsv(cmd, I)), refuses(3, 2, rsv(cmd, count=1)), 'must', then=[rsv_is()])
case('rsv-set-other', ['7/set'], 'The sender need not be on the new list', frame(3, rsv(1, A)), expect(answer(3, rsv(1, A))), 'must', then=[rsv_is(A)])
case('rsv-set-holder', ['7/set', '15/38'], 'A holder replaces the whole list', frame(3, rsv(1, B, I)), expect(answer(3, rsv(1, B, I))), 'must', setup=[HELD2], then=[rsv_is(B, I)])
case('rsv-set-holder-2', ['7/set', '15/38'], 'So does the second holder', frame(3, rsv(1, A), src=A), expect(answer(3, rsv(1, A), A)), 'must', setup=[HELD2], then=[rsv_is(A)])
case('rsv-set-stranger', ['7/conflict', '15/38'], 'A stranger: error 6 with the list in force', frame(3, rsv(1, B), src=B), expect(answer(3, rsv(1, I, A), B, 6)), 'must', setup=[HELD2], then=[rsv_is(I, A)])
case('rsv-release-stranger', ['7/conflict'], 'A stranger cannot release', frame(3, rsv(1), src=B), expect(answer(3, rsv(1, I), B, 6)), 'must', setup=[HELD], then=[rsv_is(I)])
case('rsv-force', ['7/force'], 'A stranger forces', frame(3, rsv(2, B), src=B), expect(answer(3, rsv(2, B), B)), 'must', setup=[HELD], then=[rsv_is(B)])
case('rsv-force-release', ['7/force'], 'A stranger forces a release', frame(3, rsv(2), src=B), expect(answer(3, rsv(2), B)), 'must', setup=[HELD], then=[rsv_is()])
case('rsv-twice', ['7/set'], 'An address twice is one entry', frame(3, rsv(1, I, A, I)), expect(answer(3, rsv(1, I, A))))
case('rsv-count-one-over', ['7/count'], 'One address less than the count says', frame(3, rsv(1, I, count=2), size=0), refuses(3, 2, rsv(1, count=2)), 'must', then=[rsv_is()])
case('rsv-count-force', ['7/count'], 'The same with force set', frame(3, rsv(2, I, count=200)), refuses(3, 2, rsv(2, count=200)), 'must', setup=[HELD], then=[rsv_is(I)])
for op, arg in ((0x24, ata(0x24, 0, 1)), (0x34, ata(0x34, 9, 1, data=fill(1, 1))), (0xe5, ata(0xe5)), (0xb0, smart(0xda)), (0x06, trim(ranges((64, 8))))):
    case(f'rsv-denied-{op:02x}', ['7/denied', '15/39'], f'{op:02X} by a stranger: error 6, nothing done', frame(0, arg, src=A), refuses(0, 6, arg[:12], to=A), 'must', setup=[HELD],
         then=[still_read(9), still_read(64)])
case('rsv-denied-ata', ['7/answer', '15/39'], 'By choice the denied get ATA status 41/04, which Linux notices at once', frame(0, ata(0x24, 9, 1), src=A), aborted(0x24, 9, 1, to=A), pre={'reserved_answer': 'ata'}, setup=[HELD])
case('rsv-denied-ata-write', ['7/answer'], 'The same for a write, which is not done', frame(0, ata(0x34, 9, 1, data=fill(1, 1)), src=A), aborted(0x34, 9, 1, to=A), pre={'reserved_answer': 'ata'}, setup=[HELD], then=[still_read(9)])
case('rsv-denied-set-ata', ['7/answer'], 'A reservation command is answered with error 6 all the same', frame(3, rsv(1, A), src=A), expect(answer(3, rsv(1, I), A, 6)), pre={'reserved_answer': 'ata'}, setup=[HELD])
case('rsv-stranger-identify', ['7/allowed', '15/40'], 'IDENTIFY by a stranger', frame(0, ata(0xec, 0, 1), src=A), paged(0xec, to=A), 'must', setup=[HELD])
case('rsv-stranger-config', ['7/allowed', '15/40'], 'Query Config by a stranger', frame(1, cfg(0), src=A), cfg_says(0, to=A), 'must', setup=[HELD])
case('rsv-stranger-mask', ['7/allowed', '15/40'], 'Mask edit by a stranger', frame(2, mask(1, (1, A), (1, I)), src=A), expect(answer(2, maclist(1, A, I), A)), 'must', setup=[HELD])
case('rsv-holders', ['7/list'], 'Each of two holders reads and writes', frame(0, ata(0x34, 9, 1, data=fill(1, 1)), src=A), ata_says(0x34, 9, to=A), 'must', setup=[HELD2], then=[still_read(9, fill(1, 1))])
case('rsv-released', ['7/list'], 'After a release everybody reads', frame(0, ata(0x24, 0, 1), src=A), ata_says(0x24, 0, 0, disk(0, 1), to=A), 'must', setup=[HELD, frame(3, rsv(1))])
RFULL = [I] + [mac(i) for i in range(254)]
case('rsv-255', ['7/size'], 'A reservation of 255 hosts', frame(3, rsv(1, *RFULL)), expect(answer(3, rsv(1, *RFULL))), pre={'mtu': 9000}, then=[still_read(0, src=RFULL[254]), rsv_is(*RFULL)])
case('rsv-247', ['7/size'], 'A reservation that fills a frame of MTU 1500', frame(3, rsv(1, *RFULL[:247])), expect(answer(3, rsv(1, *RFULL[:247]))), then=[rsv_is(*RFULL[:247])])
case('rsv-full-disk', ['7/persist'], 'A reservation with no room on disk: the old one stays', frame(3, rsv(1, I)), {'reply': True, 'response_hex': answer(3, rsv(1), err=3).hex(), 'significant_bytes': 60}, pre={'store': 'full'}, runs='core', then=[rsv_is()])

# ---------------------------------------------------------------- 9, 12: announcements and VLAN
case('announce-string', ['9/start', '15/20'], 'The announcement is a reply of version 1 with tag 0', None, cfg_says(0, to=BC, tag=bytes(4)), 'must')
V5 = {'vlan': 5}
case('announce-vlan', ['9/start', '12/bound'], 'The announcement of a slot on a VLAN carries the tag', None, cfg_says(0, to=BC, tag=bytes(4), tci=5), pre=V5)
for tci, name in ((5, 'plain'), (0xa005, 'priority'), (0x1005, 'dei')):
    case(f'vlan-{name}', ['12/bound', '15/41'], f'Tag {tci:04x} on VLAN 5: the answer carries it', frame(1, cfg(0), tci=tci), cfg_says(0, tci=tci), 'may', V5)
case('vlan-read', ['12/bound', '15/41'], 'A read on a VLAN', frame(0, ata(0x24, 9, 2), tci=5), ata_says(0x24, 9, 0, disk(9, 2), tci=5), 'may', V5)
case('vlan-write', ['12/bound', '15/41'], 'A write on a VLAN', frame(0, ata(0x34, 9, 2, data=fill(1, 2)), tci=5), ata_says(0x34, 9, tci=5), 'may', V5, then=[still_read(9, fill(1, 2), tci=5)])
case('vlan-set', ['12/bound', '15/41'], 'A config set on a VLAN', frame(1, cfg(3, b'x'), tci=5), cfg_says(3, b'x', tci=5), 'may', V5)
case('vlan-error', ['12/bound', '15/41'], 'An AoE error on a VLAN', frame(0x42, tci=5), refuses(0x42, 1, tci=5), 'may', V5)
case('vlan-mask', ['12/bound', '15/41'], 'A mask edit on a VLAN', frame(2, mask(1, (1, I)), tci=5), expect(answer(2, maclist(1, I), tci=5)), 'may', V5)
case('vlan-reserve', ['12/bound', '15/41'], 'A reservation on a VLAN', frame(3, rsv(1, I), tci=5), expect(answer(3, rsv(1, I), tci=5)), 'may', V5)
case('vlan-wild', ['12/bound', '11/2'], 'A wildcard on a VLAN', frame(1, cfg(0), tci=5, **WILD), cfg_says(0, tci=5), 'may', V5)
case('vlan-other', ['12/other', '11/2', '15/41'], 'Another VLAN', frame(1, cfg(0), tci=6), SILENCE, 'may', V5)
case('vlan-other-wild', ['12/other', '11/2', '15/41'], 'A wildcard on another VLAN', frame(1, cfg(0), tci=6, **WILD), SILENCE, 'may', V5)
case('vlan-untagged-wild', ['12/other', '11/2', '15/41'], 'An untagged wildcard and a slot on a VLAN', frame(1, cfg(0), **WILD), SILENCE, 'may', V5)
case('vlan-write-other', ['12/other', '11/2'], 'A write on another VLAN is not done', frame(0, ata(0x34, 9, 1, data=fill(1, 1)), tci=6), SILENCE, 'may', V5, then=[still_read(9, tci=5)])
case('vlan-priority-bound', ['12/priority', '12/other'], 'A priority tag is no VLAN: not for a slot on one', frame(1, cfg(0), tci=0xa000), SILENCE, 'may', V5)
case('vlan-tagged-unbound', ['12/other', '15/41'], 'VLAN 5 and a slot without one', frame(1, cfg(0), tci=5), SILENCE, 'may')
for tci in (0x0000, 0xa000, 0xf000):
    case(f'vlan-priority-{tci:04x}', ['12/priority'], f'Priority tag {tci:04x}: served as untagged, answered with the tag', frame(1, cfg(0), tci=tci), cfg_says(0, tci=tci), 'may')
case('vlan-priority-read', ['12/priority'], 'A read with a priority tag', frame(0, ata(0x24, 9, 2), tci=0xa000), ata_says(0x24, 9, 0, disk(9, 2), tci=0xa000), 'may')
case('vlan-double', ['12/other', '11/1'], 'Two tags', frame(1, cfg(0), tci=5)[:12] + b'\x81\x00\x00\x05' + frame(1, cfg(0), tci=5)[12:], SILENCE, 'may', V5)
case('vlan-runt', ['11/5', '12/bound'], 'A tagged request one byte short', frame(1, cfg(0)[:-1], tci=5, size=0), SILENCE, 'may', V5)
case('vlan-sectors', ['12/sectors'], 'The tag does not cost a sector at MTU 1500', frame(0, ata(0x24, 9, 2), tci=5), ata_says(0x24, 9, 0, disk(9, 2), tci=5), 'may', V5)
case('vlan-jumbo', ['12/sectors'], 'Nor at MTU 9000', frame(0, ata(0x24, 9, 16), tci=5), ata_says(0x24, 9, 0, disk(9, 16), tci=5), 'may', {'vlan': 5, 'mtu': 9000})

out = {'format': 'aoe-vectors/1', 'about': ABOUT}
text = json.dumps(out, indent=1)[:-2] + ',\n "vectors": [\n' + ',\n'.join('  ' + json.dumps(c) for c in cases) + '\n ]\n}\n'
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'extended.json')
if sys.argv[1:] == ['--check']:
    if open(path).read() != text: sys.exit(f'{path} is not what extend.py writes: run tests/conformance/extend.py')
elif sys.argv[1:]:
    sys.exit(__doc__)
else:
    open(path, 'w').write(text)
    print(f'{len(cases)} cases, {len(text)} bytes')
