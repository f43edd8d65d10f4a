//! Lists of numbers as the kernel writes them: `0-3,6`.
//!
//! Not here: whether such a CPU or queue exists.
//! Invariant: a list that parses is not empty and names each number once, in the order given.

use super::mistake::Wrong;
use std::fmt;
use std::ops::RangeInclusive;

/// Reads a list such as `0-3,6`, each number within `allowed`. `what` is the singular noun for messages.
///
/// # Errors
/// Says which part of the list is wrong.
pub fn parse_list(text: &str, what: &str, allowed: &RangeInclusive<u16>) -> Result<Vec<u16>, Wrong> {
    let remedy = || format!("write {what} numbers as \"0-3,6\"");
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (from, to) = match part.split_once('-') {
            Some((from, to)) => (from.trim(), to.trim()),
            None => (part, part),
        };
        let (from, to) = match (number(from), number(to)) {
            (Some(from), Some(to)) => (from, to),
            _ => return Err(Wrong::new(format!("'{part}' is no {what} number and no range"), remedy())),
        };
        if from > to {
            return Err(Wrong::new(format!("the range {part} runs backwards"), format!("write {to}-{from}")));
        }
        for n in from..=to {
            push(&mut numbers, n, what, allowed)?;
        }
    }
    Ok(numbers)
}

/// Adds one number to a list.
///
/// # Errors
/// When it is out of range, or already there.
pub fn push(list: &mut Vec<u16>, n: u32, what: &str, allowed: &RangeInclusive<u16>) -> Result<(), Wrong> {
    let (low, high) = (allowed.start(), allowed.end());
    let n = u16::try_from(n).ok().filter(|n| allowed.contains(n)).ok_or_else(|| {
        Wrong::new(format!("{what} {n} is out of range"), format!("use numbers from {low} to {high}"))
    })?;
    if list.contains(&n) {
        return Err(Wrong::new(format!("{what} {n} is named twice"), "name each once"));
    }
    list.push(n);
    Ok(())
}

fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Writes a list the short way.
#[derive(Clone, Copy, Debug)]
pub struct List<'a>(pub &'a [u16]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut comma = "";
        while let [first, ..] = rest {
            let run = rest.iter().zip(*first..=u16::MAX).take_while(|(a, b)| *a == b).count();
            let last = rest[run - 1];
            if run > 1 {
                write!(f, "{comma}{first}-{last}")?
            } else {
                write!(f, "{comma}{first}")?
            }
            comma = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_read_as_they_are_written() {
        assert_eq!(parse_list("0-3,6", "CPU", &(0..=7)), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse_list(" 6 , 0 - 1 ", "CPU", &(0..=7)), Ok(vec![6, 0, 1]));
        for bad in
            ["", ",", "1,,2", "a", "1-", "-1", "3-1", "1-2-3", "0,0", "0-2,1", "9", "99999999999999", "+1"]
        {
            assert!(parse_list(bad, "CPU", &(0..=7)).is_err(), "{bad}");
        }
        assert_eq!(List(&[0, 1, 2, 3, 6]).to_string(), "0-3,6");
        assert_eq!(List(&[65535]).to_string(), "65535");
    }

    #[test]
    fn a_huge_range_is_refused_before_it_is_built() {
        let wrong = parse_list("0-4294967295", "CPU", &(0..=1023)).unwrap_err();
        assert!(wrong.what.contains("1024"), "{wrong:?}");
    }

    proptest! {
        #[test]
        fn any_list_survives_a_round_trip(set in proptest::collection::btree_set(0u16..1024, 1..40)) {
            let list: Vec<u16> = set.into_iter().collect();
            prop_assert_eq!(parse_list(&List(&list).to_string(), "CPU", &(0..=1023)), Ok(list));
        }

        #[test]
        fn no_text_panics(text in "[0-9, \\-a]{0,20}") {
            if let Ok(list) = parse_list(&text, "CPU", &(0..=100)) {
                prop_assert!(!list.is_empty() && list.iter().all(|n| *n <= 100));
            }
        }
    }
}
