//! What is wrong with a configuration: where, which key, what, and what to do about it.
//!
//! Not here: the rules themselves (`rules`), nor how the text was read (`file`, `quick`).
//! Invariant: a mistake names one place a person can go to, and says what to change there.

use std::fmt::{self, Write as _};

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the configuration file; line and column count from 1, the column in characters.
    File {
        /// The file, as it was named.
        file: String,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// On the command line; the argument as it was given.
    Argument(String),
}

impl Place {
    /// The line in the file, if that is where it was given.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            Self::Argument(_) => None,
        }
    }

    /// The place as another place of the same configuration mentions it.
    pub(super) fn brief(&self) -> String {
        match self.line() {
            Some(line) => format!("line {line}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Argument(text) => write!(f, "argument '{text}'"),
        }
    }
}

/// Line and column, from 1, of a byte of a text; the column counts characters.
#[must_use]
pub fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let mut at = byte.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `serve` refuses to start with it.
    Error,
    /// `serve` starts, but perhaps not as meant.
    Warning,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A value that breaks a rule, before it is known where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Wrong {
    /// Both halves of the message.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Error or warning.
    pub severity: Severity,
    /// Where; `None` for something that is missing altogether.
    pub place: Option<Place>,
    /// The key's path, such as `slot[0].serial`; tables of an array count from 0. Empty for the whole document.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    /// One line as compilers write it: `PLACE: error: KEY: what; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Some(self.severity))
    }
}

impl Mistake {
    fn write(&self, f: &mut impl fmt::Write, severity: Option<Severity>) -> fmt::Result {
        let mut line = String::new();
        if let Some(place) = &self.place {
            write!(line, "{place}: ")?;
        }
        if let Some(severity) = severity {
            write!(line, "{}: ", severity.word())?;
        }
        if !self.key.is_empty() {
            write!(line, "{}: ", self.key)?;
        }
        write!(line, "{}; {}", self.what, self.remedy)?;
        // What was written may have any character in it, and a line stays a line.
        line.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_debug()) } else { f.write_char(c) }
        })
    }

    /// The line where an error goes without saying: behind the name of a program that refuses to go on.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut line, Some(self.severity).filter(|s| *s == Severity::Warning));
        line
    }
}

/// All that was found, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Notes something that stops a start.
    pub fn error(&mut self, place: Option<&Place>, key: impl Into<String>, wrong: Wrong) {
        self.note(Severity::Error, place, key.into(), wrong);
    }

    /// Notes something that does not stop a start.
    pub fn warning(&mut self, place: Option<&Place>, key: impl Into<String>, wrong: Wrong) {
        self.note(Severity::Warning, place, key.into(), wrong);
    }

    fn note(&mut self, severity: Severity, place: Option<&Place>, key: String, wrong: Wrong) {
        let Wrong { what, remedy } = wrong;
        self.0.push(Mistake { severity, place: place.cloned(), key, what, remedy });
    }

    /// Drops what `keep` refuses.
    pub fn retain(&mut self, keep: impl FnMut(&Mistake) -> bool) {
        self.0.retain(keep);
    }

    /// Puts them in the order of the file; what has no place comes last.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| (a.place.is_none(), &a.place).cmp(&(b.place.is_none(), &b.place)));
    }

    /// Whether a start is refused.
    #[must_use]
    pub fn refuse(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many of a kind there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|m| m.severity == severity).count()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// Adds those of another reader.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// The name of `known` that was probably meant by `given`, if one is near enough.
#[must_use]
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase().replace('_', "-");
    let near = known.into_iter().map(|name| (distance(&given, name), name)).min()?;
    // A third of the name may be wrong: enough for a slip of the finger, too little for another word.
    (near.0 <= near.1.len().max(3) / 3).then_some(near.1)
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a = 1\nb = \"ü\" x\n";
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, 6), (2, 1));
        assert_eq!(line_and_column(text, text.find('x').unwrap()), (2, 9));
        assert_eq!(line_and_column(text, 12), (2, 6), "inside the ü counts as the ü");
        assert_eq!(line_and_column(text, 999), (3, 1));
        assert_eq!(line_and_column("", 0), (1, 1));
    }

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["read-only", "write-back", "path", "address"];
        for (given, want) in [
            ("readonly", Some("read-only")),
            ("read_only", Some("read-only")),
            ("READ-ONLY", Some("read-only")),
            ("adress", Some("address")),
            ("ptah", Some("path")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(given, known), want, "{given}");
        }
    }

    #[test]
    fn a_mistake_is_one_line() {
        let mut all = Mistakes::default();
        let place = Place::File { file: "x.toml".into(), line: 3, column: 5 };
        all.warning(None, "", Wrong::new("nothing to serve", "add a [[slot]]"));
        all.error(Some(&place), "slot[0].serial", Wrong::new("too long", "shorten it"));
        all.sort();
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "x.toml:3:5: error: slot[0].serial: too long; shorten it",
                "warning: nothing to serve; add a [[slot]]"
            ]
        );
        assert!(all.refuse());
        let lines: Vec<String> = all.iter().map(Mistake::to_line).collect();
        assert_eq!(lines[0], "x.toml:3:5: slot[0].serial: too long; shorten it");
        assert_eq!(lines[1], "warning: nothing to serve; add a [[slot]]");
    }
}
