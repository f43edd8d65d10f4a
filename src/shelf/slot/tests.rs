use super::*;
use crate::shelf::admit;
use proptest::prelude::*;

const PORT: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn facts() -> SlotFacts {
    SlotFacts {
        serial: "S".parse().unwrap(),
        state: SlotState::with_config_string(b"hello"),
        ..SlotFacts::new(Address { shelf: 7, slot: 3 }, 2048)
    }
}

const PATH: Path = Path { port: PORT, sectors: 2, wildcard: false };

/// A request from the command byte on.
fn request(rest: &[u8]) -> Vec<u8> {
    let mut f = PORT.0.to_vec();
    f.extend(HOST);
    f.extend([0x88, 0xa2, 0x13, 0x55, 0, 7, 3]);
    f.extend(rest);
    f
}

fn ask(slot: &Slot, path: &Path, frame: &[u8]) -> (Decision, Vec<u8>) {
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
    let (decision, bytes) = ask(&Slot::new(facts()), &PATH, &request(rest));
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
        ask(&Slot::new(facts()), &PATH, &request(&rest)).0
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
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0], 2),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0xf4], 2),
        (&[2, 0, 0, 0, 0, 0, 0, 0, 0], 1),
        (&[3, 0, 0, 0, 0, 0, 0], 1),
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
    let slot = Slot::new(facts());
    let wildcard = Path { wildcard: true, ..PATH };
    let mut write = vec![0, 0, 0, 0, 0, 0x41, 0, 1, 0x34, 0, 0, 0, 0, 0, 0, 0, 0];
    let (decision, _) = ask(&slot, &wildcard, &request(&write));
    assert_eq!(decision, Decision::Silence(Refusal::Wildcard), "without data");
    write.extend([0; 512]);
    let force_set = request(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, b'x']);
    let mask = request(&[2, 0, 0, 0, 0, 0, 0, 0, 0]);
    for frame in [request(&write), request(&[0x42, 0, 0, 0, 0]), mask, force_set] {
        let (decision, bytes) = ask(&slot, &wildcard, &frame);
        assert_eq!(decision, Decision::Silence(Refusal::Wildcard));
        assert_eq!(bytes[..frame.len()], frame, "left as it was");
    }
    assert!(matches!(ask(&slot, &PATH, &request(&write)).0, Decision::Io(..)));
    let identify = request(&[0, 0, 0, 0, 0, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&slot, &wildcard, &identify).0, Decision::Reply(548));
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
        ask(&Slot::new(facts()), &PATH, &request(&[0, 9, 8, 7, 6, 0, 0, 1, 0xec, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(decision, Decision::Silence(Refusal::Runt), "35 bytes");
}

#[test]
fn a_failed_slot_takes_no_writes_and_no_flush_but_reads() {
    let mut slot = Slot::new(facts());
    assert!(slot.fail());
    assert!(!slot.fail(), "told once");
    let flush = request(&[0, 9, 8, 7, 6, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (decision, bytes) = ask(&slot, &PATH, &flush);
    assert!(matches!(decision, Decision::Reply(60)));
    assert_eq!(bytes[24..28], [0, 4, 0, 0x61]);
    let read = request(&[0, 9, 8, 7, 6, 0, 0, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(ask(&slot, &PATH, &read).0, Decision::Io(..)));
}

#[test]
fn a_slot_answers_on_its_own_vlan_only() {
    let tagged = |vid: u8| {
        let mut f = request(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
        f.splice(12..12, [0x81, 0, 0xe0, vid]);
        f
    };
    let plain = Slot::new(facts());
    let bound = Slot::new(SlotFacts { vlan: 5, ..facts() });
    assert!(matches!(ask(&plain, &PATH, &tagged(0)).0, Decision::Reply(_)));
    assert_eq!(ask(&plain, &PATH, &tagged(5)).0, Decision::Silence(Refusal::OtherVlan));
    let untagged = request(&[1, 9, 8, 7, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(&bound, &PATH, &untagged).0, Decision::Silence(Refusal::OtherVlan));
    let (_, bytes) = ask(&bound, &PATH, &tagged(5));
    assert_eq!(bytes[12..19], [0x81, 0, 0xe0, 5, 0x88, 0xa2, 0x18]);
}

#[test]
fn an_announcement_is_a_reply_nobody_asked_for() {
    let slot = Slot::new(facts());
    let mut room = [0xee; 100];
    let len = slot.announce(&PATH, &mut room).unwrap();
    assert_eq!(len, 60);
    let mut want = vec![0xff; 6];
    want.extend(PORT.0);
    want.extend([0x88, 0xa2, 0x18, 0, 0, 7, 3, 1, 0, 0, 0, 0, 0, 64, 0, 1, 2, 0x10, 0, 5]);
    want.extend(b"hello");
    want.resize(60, 0);
    assert_eq!(room[..60], want);
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
        if failed { slot.fail(); }
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
