use super::*;
use crate::shelf::{Tried, Why, admit};
use proptest::prelude::*;

const WHY: Why = Why { tried: Tried::Write, errno: 5 };
const FAILED: Condition = Condition::Failed(WHY);

const PORT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn facts() -> SlotFacts {
    SlotFacts {
        serial: "S".parse().unwrap(),
        state: SlotState::with_config_string(b"hello"),
        ..SlotFacts::new(Address { shelf: 7, slot: 3 }, 2048)
    }
}

const PATH: Path = Path { port: PORT, sectors: 2, longest: 1514, wildcard: false };

/// A request from the command byte on.
fn request(rest: &[u8]) -> Vec<u8> {
    let mut f = PORT.0.to_vec();
    f.extend(HOST);
    f.extend([0x88, 0xa2, 0x13, 0x55, 0, 7, 3]);
    f.extend(rest);
    f
}

fn ask(slot: &mut Slot, path: &Path, frame: &[u8]) -> (Decision, Vec<u8>) {
    let mut room = vec![0xee; 3620];
    room[..frame.len()].copy_from_slice(frame);
    let admitted = admit(frame, PORT, [PORT]).unwrap();
    let decision = slot.decide(&admitted, path, &mut room, frame.len(), frame.len());
    if let Decision::Reply(len) = decision {
        room.truncate(len);
    }
    (decision, room)
}

fn answer(rest: &[u8]) -> Vec<u8> {
    let (decision, bytes) = ask(&mut Slot::new(facts()), &PATH, &request(rest));
    assert!(matches!(decision, Decision::Reply(_)), "{decision:?}");
    assert_eq!(bytes[..6], HOST);
    assert_eq!(bytes[6..12], PORT.0);
    bytes
}

#[test]
fn a_config_read_of_24_plus_8_bytes_is_answered_with_60() {
    let bytes = answer(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[12..32], [0x88, 0xa2, 0x18, 0, 0, 7, 3, 1, 9, 8, 7, 6, 0, 64, 0, 1, 2, 0x10, 0, 5]);
    assert_eq!(&bytes[32..37], b"hello");
    assert_eq!(bytes.len(), 60);
    assert!(bytes[37..].iter().all(|&b| b == 0), "padding is zero");
}

#[test]
fn a_read_ignores_length_and_string() {
    let bytes = answer(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0x20, 0xff, 0xff, 1, 2]);
    assert_eq!(bytes[29], 0x10, "the version nibble is ours");
    assert_eq!(bytes[30..32], [0, 5]);
}

#[test]
fn tests_of_the_string_answer_or_keep_silent() {
    let test = |command: u8, text: &[u8]| {
        let mut rest = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, command, 0, text.len() as u8];
        rest.extend(text);
        ask(&mut Slot::new(facts()), &PATH, &request(&rest)).0
    };
    assert!(matches!(test(1, b"hello"), Decision::Reply(_)));
    assert_eq!(test(1, b"hell"), Decision::Silence(Refusal::NoMatch));
    assert!(matches!(test(2, b"hell"), Decision::Reply(_)));
    assert!(matches!(test(2, b""), Decision::Reply(_)));
    assert_eq!(test(2, b"hello!"), Decision::Silence(Refusal::NoMatch));
}

#[test]
fn what_is_not_served_gets_the_exact_aoe_error_with_its_argument() {
    for (rest, error) in [
        (&[1u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0][..], 2),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 9, b'x'], 2),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, b'x', 0], 2),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0xf4], 2),
        (&[2, 0, 0, 0, 0, 0, 2, 0, 0], 2),
        (&[2, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1], 2),
        (&[3, 0, 0, 0, 0, 3, 0], 2),
        (&[3, 0, 0, 0, 0, 1, 1, 2, 2, 2], 2),
        (&[4, 0, 0, 0, 0, 0, 0], 1),
        (&[0x42, 0, 0, 0, 0, 0, 0], 1),
    ] {
        let bytes = answer(rest);
        assert_eq!(bytes[14..16], [0x1c, error], "{rest:x?}");
        assert_eq!(bytes.len(), 60);
    }
    let kept = answer(&[1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 9, 6, 7, 8]);
    assert_eq!(kept[24..33], [1, 2, 3, 4, 5, 9, 6, 7, 0]);
}

#[test]
fn wildcards_get_no_errors_and_no_writes() {
    let mut slot = Slot::new(facts());
    let wildcard = Path { wildcard: true, ..PATH };
    let mut write = vec![0, 0, 0, 0, 0, 0x41, 0, 1, 0x34, 0, 0, 0, 0, 0, 0, 0, 0];
    let (decision, _) = ask(&mut slot, &wildcard, &request(&write));
    assert_eq!(decision, Decision::Silence(Refusal::Wildcard), "without data");
    write.extend([0; 512]);
    let force_set = request(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, b'x']);
    let mask = request(&[2, 0, 0, 0, 0, 0, 1, 0, 0]);
    let reserve = request(&[3, 0, 0, 0, 0, 2, 0]);
    let range = request(&[0, 0, 0, 0, 0, 0x40, 0, 1, 0x24, 0, 0, 0, 9, 0, 0, 0, 0]);
    let smart = request(&[0, 0, 0, 0, 0, 0, 0xd9, 0, 0xb0, 0, 0x4f, 0xc2, 0, 0, 0, 0, 0]);
    let unknown = request(&[0x42, 0, 0, 0, 0]);
    for frame in [request(&write), unknown, mask, force_set, reserve, range, smart] {
        let (decision, bytes) = ask(&mut slot, &wildcard, &frame);
        assert_eq!(decision, Decision::Silence(Refusal::Wildcard));
        assert_eq!(bytes[..frame.len()], frame, "left as it was");
    }
    assert!(matches!(ask(&mut slot, &PATH, &request(&write)).0, Decision::Io(..)));
    let identify = request(&[0, 0, 0, 0, 0, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&mut slot, &wildcard, &identify).0, Decision::Reply(548));
}

#[test]
fn identify_is_548_bytes_and_power_is_on() {
    let bytes = answer(&[0, 9, 8, 7, 6, 0, 0, 1, 0xec, 0, 0, 0, 0xa0, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), 548);
    assert_eq!(bytes[24..36], [0, 0, 0, 0x40, 0, 0, 0, 0xa0, 0, 0, 0, 0]);
    let power = answer(&[0, 9, 8, 7, 6, 0, 0, 0, 0xe5, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(power[24..28], [0, 0, 0xff, 0x40]);
    assert_eq!(power.len(), 60);
}

#[test]
fn ata_errors_are_no_aoe_errors() {
    let bytes = answer(&[0, 9, 8, 7, 6, 0x40, 0, 1, 0x24, 0, 8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[14..16], [0x18, 0]);
    assert_eq!(bytes[24..28], [0x40, 0x10, 1, 0x41]);
    assert_eq!(bytes.len(), 60);
    let unknown = answer(&[0, 9, 8, 7, 6, 0, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(unknown[24..28], [0, 4, 0, 0x41]);
}

#[test]
fn a_runt_ata_frame_is_dropped() {
    let (decision, _) =
        ask(&mut Slot::new(facts()), &PATH, &request(&[0, 9, 8, 7, 6, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(decision, Decision::Silence(Refusal::Runt), "35 bytes");
}

#[test]
fn a_failed_slot_takes_no_writes_and_no_flush_but_reads() {
    let mut slot = Slot::new(facts());
    assert!(slot.worsen(FAILED));
    assert!(!slot.worsen(FAILED), "told once");
    let flush = request(&[0, 9, 8, 7, 6, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (decision, bytes) = ask(&mut slot, &PATH, &flush);
    assert!(matches!(decision, Decision::Reply(60)));
    assert_eq!(bytes[24..28], [0, 4, 0, 0x61]);
    let read = request(&[0, 9, 8, 7, 6, 0, 0, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(ask(&mut slot, &PATH, &read).0, Decision::Io(..)));
}

#[test]
fn a_slot_without_a_disk_fails_what_needs_one_and_answers_the_rest() {
    let mut slot = Slot::new(facts());
    slot.worsen(FAILED);
    assert!(slot.worsen(Condition::Gone(WHY)));
    assert!(!slot.worsen(FAILED), "it is not better for that");
    let ata = |opcode| request(&[0, 9, 8, 7, 6, 0, 0, 1, opcode, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (opcode, what) in [(0x20, "read"), (0x40, "verify"), (0xe7, "flush")] {
        let (decision, bytes) = ask(&mut slot, &PATH, &ata(opcode));
        assert!(matches!(decision, Decision::Reply(60)), "{what}: {decision:?}");
        assert_eq!((bytes[25], bytes[27]), (4, 0x61), "{what}");
    }
    let (decision, bytes) = ask(&mut slot, &PATH, &ata(0xec));
    assert!(matches!(decision, Decision::Reply(_)), "identify: {decision:?}");
    assert_eq!(bytes[27], 0x40);
    let config = request(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(ask(&mut slot, &PATH, &config).0, Decision::Reply(_)));
    slot.recover();
    assert!(matches!(ask(&mut slot, &PATH, &ata(0x20)).0, Decision::Io(..)));
}

#[test]
fn a_slot_answers_on_its_own_vlan_only() {
    let tagged = |vid: u8| {
        let mut f = request(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
        f.splice(12..12, [0x81, 0, 0xe0, vid]);
        f
    };
    let mut plain = Slot::new(facts());
    let mut bound = Slot::new(SlotFacts { vlan: 5, ..facts() });
    assert!(matches!(ask(&mut plain, &PATH, &tagged(0)).0, Decision::Reply(_)));
    assert_eq!(ask(&mut plain, &PATH, &tagged(5)).0, Decision::Silence(Refusal::OtherVlan));
    let untagged = request(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&mut bound, &PATH, &untagged).0, Decision::Silence(Refusal::OtherVlan));
    let (_, bytes) = ask(&mut bound, &PATH, &tagged(5));
    assert_eq!(bytes[12..19], [0x81, 0, 0xe0, 5, 0x88, 0xa2, 0x18]);
}

#[test]
fn an_announcement_is_a_reply_nobody_asked_for() {
    let slot = Slot::new(facts());
    let mut room = [0xee; 100];
    let len = slot.announce(&PATH, Mac::BROADCAST, &mut room).unwrap();
    assert_eq!(len, 60);
    let mut want = vec![0xff; 6];
    want.extend(PORT.0);
    want.extend([0x88, 0xa2, 0x18, 0, 0, 7, 3, 1, 0, 0, 0, 0, 0, 64, 0, 1, 2, 0x10, 0, 5]);
    want.extend(b"hello");
    want.resize(60, 0);
    assert_eq!(room[..60], want);
}

const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];

/// A request from the command byte on, from another host.
fn stranger(rest: &[u8]) -> Vec<u8> {
    let mut f = request(rest);
    f[6..12].copy_from_slice(&STRANGER);
    f
}

/// A request that changes something, which is kept; the reply.
fn change(slot: &mut Slot, frame: &[u8]) -> Vec<u8> {
    settle(slot, frame, true)
}

fn settle(slot: &mut Slot, frame: &[u8], kept: bool) -> Vec<u8> {
    let (decision, mut room) = ask(slot, &PATH, frame);
    assert_eq!(decision, Decision::Change);
    assert_eq!(room[..frame.len()], *frame, "left as it was");
    let admitted = admit(frame, PORT, [PORT]).unwrap();
    let Decision::Reply(len) = slot.settle(kept, &admitted, &PATH, &mut room) else { panic!() };
    assert_eq!(slot.wanted(), None);
    room.truncate(len);
    room
}

fn config(command: u8, text: &[u8]) -> Vec<u8> {
    let mut rest = vec![1, 9, 8, 7, 6, 0, 0, 0, 0, 0, command];
    rest.extend((text.len() as u16).to_be_bytes());
    rest.extend(text);
    request(&rest)
}

/// Flags and error, then the string of a config reply.
fn said(reply: &[u8]) -> (u8, u8, &[u8]) {
    let length = usize::from(u16::from_be_bytes([reply[30], reply[31]]));
    (reply[14], reply[15], &reply[32..32 + length])
}

fn replied(slot: &mut Slot, frame: &[u8]) -> Vec<u8> {
    let (decision, bytes) = ask(slot, &PATH, frame);
    assert!(matches!(decision, Decision::Reply(_)), "{decision:?}");
    bytes
}

#[test]
fn a_config_string_is_set_once_and_forced_again() {
    let mut slot = Slot::new(SlotFacts { state: SlotState::default(), ..facts() });
    assert_eq!(said(&change(&mut slot, &config(3, b"host-a"))), (0x18, 0, &b"host-a"[..]));
    assert_eq!(said(&replied(&mut slot, &config(3, b"host-a"))), (0x18, 0, &b"host-a"[..]), "a repeat");
    assert_eq!(said(&replied(&mut slot, &config(3, b"host-b"))), (0x1c, 4, &b"host-a"[..]), "lost");
    assert_eq!(said(&replied(&mut slot, &config(3, b""))), (0x1c, 4, &b"host-a"[..]));
    assert_eq!(said(&change(&mut slot, &config(4, b"host-b"))), (0x18, 0, &b"host-b"[..]));
    assert_eq!(said(&change(&mut slot, &config(4, b""))), (0x18, 0, &b""[..]), "released");
    let long: Vec<u8> = (0..1024).map(|i| i as u8).collect();
    assert_eq!(said(&change(&mut slot, &config(3, &long))), (0x18, 0, &long[..]));
    let (decision, _) = ask(&mut slot, &PATH, &config(4, &[7; 1025]));
    assert_eq!(decision, Decision::Reply(60), "error 2");
    assert_eq!(slot.facts().state.config_string[..], long[..]);
}

#[test]
fn test_and_replace_wants_the_string_in_force() {
    let replace = |from: &[u8], to: &[u8]| {
        let mut frame = config(5, from);
        frame.extend((to.len() as u16).to_be_bytes());
        frame.extend(to);
        frame
    };
    let mut slot = Slot::new(facts());
    assert_eq!(said(&replied(&mut slot, &replace(b"nobody", b"b"))), (0x1c, 4, &b"hello"[..]));
    assert_eq!(said(&change(&mut slot, &replace(b"hello", b"b"))), (0x18, 0, &b"b"[..]));
    assert_eq!(said(&replied(&mut slot, &replace(b"hello", b"b"))), (0x18, 0, &b"b"[..]), "a repeat");
    assert_eq!(said(&change(&mut slot, &replace(b"b", b""))), (0x18, 0, &b""[..]));
    assert_eq!(said(&change(&mut slot, &replace(b"", b"c"))), (0x18, 0, &b"c"[..]));
}

#[test]
fn a_change_that_is_not_kept_leaves_what_was() {
    let mut slot = Slot::new(facts());
    assert_eq!(said(&settle(&mut slot, &config(4, b"new"), false)), (0x1c, 3, &b"hello"[..]));
    let add = request(&[2, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 2]);
    let reply = settle(&mut slot, &add, false);
    assert_eq!((reply[14], &reply[24..28]), (0x18, &[0, 1, 1, 0][..]));
    let reserve = request(&[3, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 2]);
    let reply = settle(&mut slot, &reserve, false);
    assert_eq!((&reply[14..16], &reply[24..26]), (&[0x1c, 3][..], &[1, 0][..]));
    assert_eq!(slot.facts(), &facts());
}

#[test]
fn one_change_at_a_time_and_reads_go_on() {
    let mut slot = Slot::new(facts());
    assert_eq!(ask(&mut slot, &PATH, &config(4, b"new")).0, Decision::Change);
    assert!(slot.changes_config_string());
    for later in [
        config(4, b"other"),
        config(3, b"hello"),
        request(&[2, 0, 0, 0, 0, 0, 1, 0, 0]),
        request(&[3, 0, 0, 0, 0, 2, 0]),
    ] {
        assert_eq!(ask(&mut slot, &PATH, &later).0, Decision::Later);
    }
    assert_eq!(said(&replied(&mut slot, &config(0, b""))).2, b"hello", "what is not kept yet does not hold");
    assert_eq!(said(&replied(&mut slot, &config(1, b"hello"))).2, b"hello");
    replied(&mut slot, &request(&[2, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(slot.wanted().unwrap().config_string[..], b"new"[..]);
}

#[test]
fn a_mask_lets_in_whom_it_lists() {
    let mut slot = Slot::new(facts());
    let both = [0, 1, 2, 0, 0, 0, 0, 2, 0, 1, 2, 0, 0, 0, 0, 3];
    let reply = change(&mut slot, &request(&[&[2, 0, 0, 0, 0, 7, 1, 0, 2][..], &both].concat()));
    let want = [0, 1, 0, 2, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 0, 3];
    assert_eq!((reply[14], &reply[24..44]), (0x18, &want[..]));
    assert_eq!(reply.len(), 60);
    for rest in [
        &[1u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[0, 0, 0, 0, 0, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0],
        &[0x42, 0, 0, 0, 0],
    ] {
        assert_eq!(ask(&mut slot, &PATH, &stranger(rest)).0, Decision::Silence(Refusal::Masked));
        replied(&mut slot, &request(rest));
    }
    // The host takes itself off, and still hears of it.
    let reply = change(&mut slot, &request(&[2, 0, 0, 0, 0, 0, 1, 0, 1, 0, 2, 2, 0, 0, 0, 0, 2]));
    assert_eq!(reply[24..36], [0, 1, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3]);
    assert_eq!(ask(&mut slot, &PATH, &config(0, b"")).0, Decision::Silence(Refusal::Masked));
}

#[test]
fn an_edit_is_done_whole_or_not_at_all() {
    let mut slot = Slot::new(facts());
    let bad = [0, 1, 2, 0, 0, 0, 0, 2, 0, 9, 2, 0, 0, 0, 0, 3];
    let reply = replied(&mut slot, &request(&[&[2, 0, 0, 0, 0, 0, 1, 0, 2][..], &bad].concat()));
    assert_eq!((reply[14], &reply[24..28]), (0x18, &[0, 1, 2, 1][..]));
    assert!(slot.facts().state.mask.is_empty());
    let add = |from: u16, n: u16| -> Vec<u8> {
        let each = (from..from + n).flat_map(|i| [0, 1, 2, 0, 0, 0, (i >> 8) as u8, i as u8]);
        let rest: Vec<u8> = [2, 0, 0, 0, 0, 0, 1, 0, n as u8].into_iter().chain(each).collect();
        request(&rest)
    };
    // All but two; the sender is the third.
    change(&mut slot, &add(0, 253));
    let reply = replied(&mut slot, &add(251, 5));
    assert_eq!(reply[24..28], [0, 1, 3, 4], "two are listed, two fit, the fifth does not");
    assert_eq!(slot.facts().state.mask.len(), 253);
    let reply = change(&mut slot, &add(251, 4));
    assert_eq!(slot.facts().state.mask.len(), 255);
    assert_eq!((reply[27], reply.len()), (185, 28 + 185 * 8), "as many as the MTU carries");
    let wide = Path { longest: 9014, ..PATH };
    let (decision, reply) = ask(&mut slot, &wide, &request(&[2, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!((decision, reply[27]), (Decision::Reply(28 + 255 * 8), 255));
}

#[test]
fn an_edit_may_have_as_many_directives_as_its_count_can_tell() {
    let mut slot = Slot::new(facts());
    let adds = (0..=254).flat_map(|i| [0, 1, 2, 0, 0, 0, 0, i]);
    let rest: Vec<u8> = [2, 0, 0, 0, 0, 0, 1, 0, 255].into_iter().chain(adds).collect();
    change(&mut slot, &request(&rest));
    assert_eq!(slot.facts().state.mask.len(), 255);
}

#[test]
fn the_administrator_s_list_and_the_mask_both_have_to_let_in() {
    let [host, other] = [Mac(HOST), Mac(STRANGER)];
    let slot = |allow: &[Mac], mask: &[Mac]| {
        let state = SlotState { mask: mask.iter().copied().collect(), ..SlotState::default() };
        Slot::new(SlotFacts { allow: allow.to_vec(), state, ..facts() })
    };
    for (allow, mask, admitted, audience) in [
        (&[][..], &[][..], [true, true], &[Mac::BROADCAST][..]),
        (&[host], &[], [true, false], &[host]),
        (&[], &[other], [false, true], &[other]),
        (&[host], &[host, other], [true, false], &[host]),
        (&[host, other], &[other], [false, true], &[other]),
        (&[host], &[other], [false, false], &[]),
    ] {
        let slot = slot(allow, mask);
        assert_eq!([slot.admits(host), slot.admits(other)], admitted, "{allow:?} {mask:?}");
        assert_eq!(slot.audience().collect::<Vec<_>>(), audience);
    }
}

#[test]
fn a_reservation_keeps_others_from_ata_commands() {
    let mut slot = Slot::new(facts());
    let set = |mac: &[u8; 6]| [&[3, 9, 8, 7, 6, 1, 1][..], mac].concat();
    let reply = change(&mut slot, &request(&set(&HOST)));
    assert_eq!((reply[14], &reply[24..32]), (0x18, &[1, 1, 2, 0, 0, 0, 0, 2][..]));
    replied(&mut slot, &request(&set(&HOST)));
    let reply = replied(&mut slot, &stranger(&set(&STRANGER)));
    assert_eq!((&reply[14..16], &reply[24..32]), (&[0x1c, 6][..], &[1, 1, 2, 0, 0, 0, 0, 2][..]));
    let read = [0, 9, 8, 7, 6, 0x40, 5, 1, 0x24, 0, 0, 0, 0, 0, 0, 0, 0];
    let reply = replied(&mut slot, &stranger(&read));
    assert_eq!((&reply[14..16], &reply[24..28]), (&[0x1c, 6][..], &[0x40, 5, 1, 0x24][..]), "all kept");
    assert!(matches!(ask(&mut slot, &PATH, &request(&read)).0, Decision::Io(..)));
    for allowed in [
        &[0, 0, 0, 0, 0, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(replied(&mut slot, &stranger(allowed))[14], 0x18);
    }
    // Forced, and then released by the new holder, who need not stay on the list.
    let mut force = set(&STRANGER);
    force[5] = 2;
    change(&mut slot, &stranger(&force));
    assert!(matches!(ask(&mut slot, &PATH, &stranger(&read)).0, Decision::Io(..)));
    assert_eq!(replied(&mut slot, &request(&read))[15], 6);
    let reply = change(&mut slot, &stranger(&[3, 0, 0, 0, 0, 1, 0]));
    assert_eq!(reply[24..26], [1, 0]);
    assert!(matches!(ask(&mut slot, &PATH, &request(&read)).0, Decision::Io(..)));
}

#[test]
fn a_slot_may_answer_the_reserved_with_an_ata_status() {
    let reserved = [Mac(STRANGER)].into_iter().collect();
    let state = SlotState { reserved, ..SlotState::default() };
    let mut slot = Slot::new(SlotFacts { reserved_answer: ReservedAnswer::Ata, state, ..facts() });
    let read = request(&[0, 9, 8, 7, 6, 0x40, 0, 1, 0x24, 0, 0, 0, 0, 0, 0, 0, 0]);
    let reply = replied(&mut slot, &read);
    assert_eq!((&reply[14..16], &reply[24..28]), (&[0x18, 0][..], &[0x40, 4, 1, 0x41][..]));
}

#[test]
fn smart_is_switched_and_tells_of_a_failed_slot() {
    let smart = |feature, log| request(&[0, 9, 8, 7, 6, 0, feature, 1, 0xb0, log, 0x4f, 0xc2, 0, 0, 0, 0, 0]);
    let identify = request(&[0, 0, 0, 0, 0, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut slot = Slot::new(facts());
    assert_eq!(replied(&mut slot, &smart(0xd0, 0)).len(), 548);
    assert_eq!(replied(&mut slot, &smart(0xd5, 1)).len(), 548);
    assert_eq!(replied(&mut slot, &smart(0xd5, 9))[24..28], [0, 4, 1, 0x41]);
    assert_eq!(replied(&mut slot, &smart(0xda, 0))[24..31], [0, 0, 0, 0x40, 0, 0x4f, 0xc2]);
    slot.worsen(FAILED);
    assert_eq!(replied(&mut slot, &smart(0xda, 0))[29..31], [0xf4, 0x2c]);
    assert_eq!(replied(&mut slot, &identify)[36 + 170] & 1, 1);
    replied(&mut slot, &smart(0xd9, 0));
    assert_eq!(replied(&mut slot, &identify)[36 + 170] & 1, 0, "word 85");
    assert_eq!(replied(&mut slot, &identify)[36 + 164] & 1, 1, "word 82");
    assert_eq!(replied(&mut slot, &smart(0xda, 0))[27], 0x41);
    replied(&mut slot, &smart(0xd8, 0));
    assert_eq!(replied(&mut slot, &smart(0xda, 0))[27], 0x40);
}

#[test]
fn another_size_is_told_at_once() {
    let mut slot = Slot::new(facts());
    assert!(!slot.resize(2048));
    assert!(slot.resize(4096));
    let identify = request(&[0, 0, 0, 0, 0, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(replied(&mut slot, &identify)[36 + 200..36 + 204], [0, 16, 0, 0]);
    let read = request(&[0, 9, 8, 7, 6, 0x40, 0, 1, 0x24, 0xff, 15, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(ask(&mut slot, &PATH, &read).0, Decision::Io(..)));
}

#[test]
fn texts_are_checked() {
    assert_eq!("x".repeat(21).parse::<AtaText<20>>(), Err(TextError::TooLong { length: 21, most: 20 }));
    assert_eq!("ä".parse::<AtaText<20>>(), Err(TextError::NotAscii));
    assert_eq!("a\n".parse::<AtaText<20>>(), Err(TextError::NotAscii));
    assert_eq!("ab c".parse::<AtaText<20>>().unwrap().to_string(), "ab c");
}

proptest! {
    /// Whatever arrives: no panic, and a reply is well-formed.
    #[test]
    fn every_reply_is_well_formed(mut frame in proptest::collection::vec(any::<u8>(), 0..1200), command in 0..6u8,
                                  opcode: u8, wildcard: bool, failed: bool, room in 0..3620usize, ours: bool) {
        let mut slot = Slot::new(facts());
        if failed { slot.worsen(FAILED); }
        if ours && frame.len() >= 24 {
            frame[..12].copy_from_slice(&request(&[])[..12]);
            frame[12..15].copy_from_slice(&[0x88, 0xa2, 0x10]);
            frame[19] = command;
            if frame.len() > 27 { frame[27] = opcode; }
        }
        let Ok(admitted) = admit(&frame, PORT, [PORT]) else { return Ok(()) };
        let mut memory = vec![0xee; frame.len().max(room)];
        memory[..frame.len()].copy_from_slice(&frame);
        let decision = slot.decide(&admitted, &Path { wildcard, ..PATH }, &mut memory, frame.len(), frame.len());
        let decision = match decision {
            Decision::Change => slot.settle(ours, &admitted, &PATH, &mut memory),
            other => other,
        };
        prop_assert!(!matches!(decision, Decision::Later));
        if let Decision::Reply(len) = decision {
            prop_assert!(len >= 60 && len <= memory.len());
            let ethernet = crate::protocol::Ethernet::parse(&memory).unwrap();
            prop_assert_eq!(ethernet.destination, admitted.ethernet.source);
            prop_assert_eq!(ethernet.source, PORT);
            let header = crate::protocol::Header::parse(&memory[ethernet.len()..]).unwrap();
            prop_assert!(header.flags.contains(crate::protocol::Flags::RESPONSE));
            prop_assert_eq!(header.version, 1);
            prop_assert_eq!(header.tag, admitted.header.tag);
            prop_assert_eq!(header.address, slot.facts().address);
            prop_assert!(!wildcard || admitted.header.command != Command::Unknown(5));
        }
    }
}
