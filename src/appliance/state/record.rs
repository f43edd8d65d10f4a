//! The state of one slot as a file: a short text that people can read, with a checksum at its end.
//!
//! ```text
//! # What hosts have set on this slot over the wire; written by xshelf, not by hand.
//! # Removing this file while xshelf is stopped forgets it.
//! format = 1
//! config-string = 'node-a\x00\xff'
//! mask = [
//!     "02:00:00:00:00:02",
//! ]
//! reserved = []
//! crc32 = "89abcdef"
//! ```
//!
//! The text is TOML. In the config string, a byte that is not printable ASCII, a quote or a backslash stands as `\xNN`.
//! The last line is the CRC-32 of every byte above it.
//!
//! Not here: where the file is (`store`).
//! Invariant: [`decode`] gives the whole state that [`encode`] was given or says what is wrong; no bytes make it panic, or
//! give a list that is longer or has an address more often than the wire allows.

use crate::limits;
use crate::protocol::Mac;
use crate::shelf::{ConfigString, MacList, SlotState};
use serde::Deserialize;
use std::fmt::Write as _;

/// Bytes of a file at most; the longest state takes about two thirds of it.
pub const MOST_BYTES: usize = 24 << 10;

/// The format that is written, and the only one that is read.
const FORMAT: i64 = 1;
/// Characters of a message about the text at most.
const MESSAGE: usize = 200;
const CHECKSUM: &str = "crc32 = \"";
/// Bytes of the last line: the key, eight digits, quote, end of line.
const LAST_LINE: usize = CHECKSUM.len() + 8 + 2;

/// What is wrong with a file, and what to do besides restoring or removing it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any state.
    #[error("it is longer than {MOST_BYTES} bytes, so xshelf has not written it")]
    TooLong,
    /// No checksum where it belongs.
    #[error("it does not end with its checksum, so its end is missing or it was edited")]
    Torn,
    /// Another checksum than that of the content.
    #[error(
        "its checksum is {found:08x} and that of its content is {right:08x}, so it is damaged or was edited; if you \
         edited it on purpose, write crc32 = \"{right:08x}\" there"
    )]
    Checksum {
        /// As it stands there.
        found: u32,
        /// As it would have to be.
        right: u32,
    },
    /// A format of another version.
    #[error(
        "its format is {found}, and this version of xshelf reads format {FORMAT}; use the version that wrote it"
    )]
    Format {
        /// The format.
        found: i64,
    },
    /// No TOML, or a key is missing, unknown or of another type.
    #[error("{0}")]
    Text(String),
    /// The config string is too long.
    #[error("config-string has more than {} bytes", limits::CONFIG_STRING)]
    ConfigString,
    /// The config string has something that is not written so.
    #[error("config-string has a character that is neither printable ASCII nor written as \\xNN")]
    Escape,
    /// A list is too long.
    #[error("{list} has {count} addresses, and at most {} are possible", limits::MAC_LIST)]
    TooMany {
        /// Its key.
        list: &'static str,
        /// Its length.
        count: usize,
    },
    /// Something in a list is no address.
    #[error("{list} has an entry that is no MAC address; write it as 02:00:00:00:00:01")]
    NoAddress {
        /// Its key.
        list: &'static str,
    },
    /// An address is in a list twice.
    #[error("{list} has {mac} twice")]
    Twice {
        /// Its key.
        list: &'static str,
        /// The address.
        mac: Mac,
    },
}

/// Writes the state as the content of its file.
#[must_use]
pub fn encode(state: &SlotState) -> Vec<u8> {
    let mut text = String::with_capacity(1024);
    text.push_str("# What hosts have set on this slot over the wire; written by xshelf, not by hand.\n");
    text.push_str("# Removing this file while xshelf is stopped forgets it.\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "format = {FORMAT}");
    text.push_str("config-string = '");
    for byte in &state.config_string {
        match byte {
            b'\'' | b'\\' | 0..0x20 | 0x7f.. => drop(write!(text, "\\x{byte:02x}")),
            printable => text.push(char::from(*printable)),
        }
    }
    text.push_str("'\n");
    for (name, list) in [("mask", &state.mask), ("reserved", &state.reserved)] {
        let _ = write!(text, "{name} = [");
        for mac in list {
            let _ = write!(text, "\n    \"{mac}\",");
        }
        text.push_str(if list.is_empty() { "]\n" } else { "\n]\n" });
    }
    seal(text.into_bytes())
}

/// Puts the checksum behind what is above it in a file.
#[must_use]
pub fn seal(mut content: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&content);
    content.extend(format!("{CHECKSUM}{sum:08x}\"\n").into_bytes());
    content
}

/// Reads a state from the content of its file.
///
/// # Errors
/// [`RecordError`] says what is wrong.
pub fn decode(bytes: &[u8]) -> Result<SlotState, RecordError> {
    if bytes.len() > MOST_BYTES {
        return Err(RecordError::TooLong);
    }
    let (content, found) = unseal(bytes).ok_or(RecordError::Torn)?;
    let right = crc32fast::hash(content);
    if found != right {
        return Err(RecordError::Checksum { found, right });
    }
    let text = std::str::from_utf8(content).map_err(|e| RecordError::Text(e.to_string()))?;
    // Another format may have other keys.
    let head: Head = parse(text)?;
    if head.format != FORMAT {
        return Err(RecordError::Format { found: head.format });
    }
    let body: Body = parse(text)?;
    Ok(SlotState {
        config_string: config_string(&body.config_string)?,
        mask: list("mask", &body.mask)?,
        reserved: list("reserved", &body.reserved)?,
    })
}

/// What the checksum is of, and the checksum.
fn unseal(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let (content, last) = bytes.split_at_checked(bytes.len().checked_sub(LAST_LINE)?)?;
    let digits = std::str::from_utf8(last).ok()?.strip_prefix(CHECKSUM)?.strip_suffix("\"\n")?;
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let sum = u32::from_str_radix(digits, 16).ok().filter(|_| hex)?;
    content.ends_with(b"\n").then_some((content, sum))
}

#[derive(Deserialize)]
struct Head {
    format: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Body {
    #[serde(rename = "format")]
    _format: i64,
    config_string: String,
    mask: Vec<String>,
    reserved: Vec<String>,
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, RecordError> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map(|span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
        // It may quote what is in the file.
        let said: String =
            e.message().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE).collect();
        RecordError::Text(line.map_or_else(|| said.clone(), |line| format!("line {line}: {said}")))
    })
}

fn config_string(text: &str) -> Result<ConfigString, RecordError> {
    let mut string = ConfigString::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let byte;
        (byte, rest) = match (first, behind) {
            (b'\\', [b'x', high, low, behind @ ..]) => {
                (digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low), behind)
            }
            (b' '..=b'~', behind) if first != b'\\' => (Some(first), behind),
            (_, behind) => (None, behind),
        };
        string.try_push(byte.ok_or(RecordError::Escape)?).map_err(|_| RecordError::ConfigString)?;
    }
    Ok(string)
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn list(name: &'static str, texts: &[String]) -> Result<MacList, RecordError> {
    let mut list = MacList::new();
    for text in texts {
        let mac: Mac = text.parse().map_err(|_| RecordError::NoAddress { list: name })?;
        if list.contains(&mac) {
            return Err(RecordError::Twice { list: name, mac });
        }
        list.try_push(mac).map_err(|_| RecordError::TooMany { list: name, count: texts.len() })?;
    }
    Ok(list)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::collection::{hash_set, vec};
    use proptest::prelude::*;

    fn macs() -> impl Strategy<Value = MacList> {
        let one = any::<[u8; 6]>().prop_map(Mac);
        prop_oneof![hash_set(one.clone(), 0..4), hash_set(one, 0..=limits::MAC_LIST)]
            .prop_map(|set| set.into_iter().collect())
    }

    /// Any state.
    pub fn states() -> impl Strategy<Value = SlotState> {
        let string = prop_oneof![
            vec(any::<u8>(), 0..=limits::CONFIG_STRING),
            "[ -~]{0,40}".prop_map(String::into_bytes),
            vec(prop_oneof![Just(b'\''), Just(b'\\'), Just(b'x'), Just(b'\n')], 0..20),
        ];
        (string, macs(), macs()).prop_map(|(string, mask, reserved)| SlotState {
            config_string: string.into_iter().collect(),
            mask,
            reserved,
        })
    }

    fn body(config_string: &str, mask: &str, reserved: &str) -> Vec<u8> {
        let text = format!(
            "format = 1\nconfig-string = '{config_string}'\nmask = [{mask}]\nreserved = [{reserved}]\n"
        );
        seal(text.into_bytes())
    }

    fn mac_texts(n: usize) -> String {
        (0..n).map(|n| format!("\"02:00:00:00:{:02x}:{:02x}\",", n >> 8, n & 0xff)).collect()
    }

    #[test]
    fn a_file_reads_well() {
        let mut state = SlotState::with_config_string(b"it's \\ \0\xff");
        state.mask.push(Mac([2, 0, 0, 0, 0, 2]));
        let text = String::from_utf8(encode(&state)).unwrap();
        let expected = "\
            # What hosts have set on this slot over the wire; written by xshelf, not by hand.\n\
            # Removing this file while xshelf is stopped forgets it.\n\
            format = 1\n\
            config-string = 'it\\x27s \\x5c \\x00\\xff'\n\
            mask = [\n    \"02:00:00:00:00:02\",\n]\n\
            reserved = []\n";
        let (content, last) = text.split_at(text.len() - LAST_LINE);
        assert_eq!(content, expected);
        // As crc32(1) would say it.
        assert_eq!(last, format!("crc32 = \"{:08x}\"\n", crc32fast::hash(expected.as_bytes())));
        assert_eq!(decode(text.as_bytes()), Ok(state));
    }

    #[test]
    fn the_longest_state_fits_the_bound() {
        let macs: MacList = (0..=254).map(|n| Mac([0xff, 0xff, 0xff, 0xff, 0xff, n])).collect();
        let config_string = std::iter::repeat_n(0xff, limits::CONFIG_STRING).collect();
        let state = SlotState { config_string, mask: macs.clone(), reserved: macs };
        let bytes = encode(&state);
        assert!(bytes.len() <= MOST_BYTES && bytes.len() > MOST_BYTES / 2, "{}", bytes.len());
        assert_eq!(decode(&bytes), Ok(state));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let twice = "\"02:00:00:00:00:02\", \"02-00-00-00-00-02\"";
        let newer = seal(b"format = 2\nmask = \"none\"\n".to_vec());
        let unsealed = b"format = 1\nconfig-string = ''\nmask = []\nreserved = []\n".to_vec();
        let mut edited = body("a", "", "");
        let at = edited.iter().position(|b| *b == b'a').unwrap();
        edited[at] ^= 1;
        for (bytes, said) in [
            (Vec::new(), "it does not end with its checksum"),
            (unsealed, "it does not end with its checksum"),
            (b"crc32 = \"+1234567\"\n".to_vec(), "it does not end with its checksum"),
            (vec![b'#'; MOST_BYTES + 1], "it is longer than 24576 bytes"),
            (edited, "it is damaged or was edited; if you edited it on purpose, write crc32 = \""),
            (newer, "its format is 2, and this version of xshelf reads format 1"),
            (seal(b"mask = []\n".to_vec()), "missing field `format`"),
            (seal(b"format = 1\nmask = []\nreserved = []\n".to_vec()), "missing field `config-string`"),
            (seal(b"format = 1\nformat = 1\n".to_vec()), "line 2: duplicate key"),
            (seal(b"\xff\n".to_vec()), "utf-8"),
            (seal(b"[\n".repeat(9000)), "line "),
            (body("", "\"02:00:00:00:00:02\"]\ncolour = [", ""), "unknown field `colour`"),
            (body("", &format!("]\n\"a\\n\\u007f{}\" = [", "b".repeat(9000)), ""), "unknown field `a  bbb"),
            (body(&"a".repeat(1025), "", ""), "config-string has more than 1024 bytes"),
            (body(&"\\x00".repeat(1025), "", ""), "config-string has more than 1024 bytes"),
            (body("\\x0", "", ""), "config-string has a character"),
            (body("\\x+1", "", ""), "config-string has a character"),
            (body("\\n", "", ""), "config-string has a character"),
            (body("\u{e4}", "", ""), "config-string has a character"),
            (body("", "\"02:00\"", ""), "mask has an entry that is no MAC address"),
            (body("", "", twice), "reserved has 02:00:00:00:00:02 twice"),
            (body("", &mac_texts(256), ""), "mask has 256 addresses, and at most 255 are possible"),
            (body("", "", &mac_texts(300)), "reserved has 300 addresses"),
        ] {
            let error = decode(&bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{:?}\n{error}\n{said}", String::from_utf8_lossy(&bytes));
            assert!(!error.contains(char::is_control) && error.len() < 500, "{error}");
        }
        assert_eq!(decode(&body("", &mac_texts(255), "")).unwrap().mask.len(), 255);
    }

    #[test]
    fn an_edited_file_can_be_sealed_by_what_the_message_says() {
        let text = String::from_utf8(encode(&SlotState::with_config_string(b"a"))).unwrap();
        let edited = text.replace("'a'", "'b'");
        let Err(RecordError::Checksum { found, right }) = decode(edited.as_bytes()) else { panic!() };
        let sealed = edited.replace(&format!("{found:08x}"), &format!("{right:08x}"));
        assert_eq!(decode(sealed.as_bytes()), Ok(SlotState::with_config_string(b"b")));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(state in states()) {
            let bytes = encode(&state);
            prop_assert!(bytes.is_ascii());
            prop_assert_eq!(decode(&bytes), Ok(state));
        }

        #[test]
        fn a_file_cut_off_or_with_a_wrong_byte_is_noticed(
            state in states(),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let bytes = encode(&state);
            let at = at.index(bytes.len());
            prop_assert!(decode(&bytes[..at]).is_err());
            let mut wrong = bytes.clone();
            wrong[at] ^= flip;
            // The digits of the checksum mean the same in either case.
            prop_assert!(decode(&wrong).is_err() || wrong.eq_ignore_ascii_case(&bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400), text in "[ -~\n]{0,200}") {
            let _ = decode(&bytes);
            let _ = decode(&seal(bytes));
            let _ = decode(&seal(format!("{text}\n").into_bytes()));
            let _ = decode(&seal(format!("format = 1\nconfig-string = '{text}'\nmask = []\nreserved = []\n").into_bytes()));
        }
    }
}
