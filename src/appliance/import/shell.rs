//! Splits text into commands and words as a POSIX shell does, with the line of each word.
//!
//! Not a shell: nothing is expanded, and a word that would be is marked. Redirections are left out.
//! Invariant: any text is split without an error but one: a quote that never ends.

/// One word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// Without its quotes.
    pub text: String,
    /// Where it begins, from 1.
    pub line: usize,
    /// Whether a shell would put something in place of a part of it (`$`, `` ` ``).
    pub expands: bool,
    /// Whether it begins with a quote, so that it is no assignment and no redirection.
    quoted: bool,
}

impl Word {
    /// A word that stands for itself.
    pub fn plain(text: impl Into<String>, line: usize) -> Self {
        Self { text: text.into(), line, ..Self::default() }
    }

    /// A part of it.
    pub fn part(&self, text: &str) -> Self {
        Self { text: text.to_owned(), ..self.clone() }
    }

    /// Name and value, if it is an assignment.
    pub fn assignment(&self) -> Option<(&str, Self)> {
        let (name, value) = self.text.split_once('=').filter(|_| !self.quoted)?;
        let mut letters = name.bytes();
        let first = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest = letters.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (first && rest).then(|| (name, self.part(value)))
    }
}

/// A quote that never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unended {
    /// Where it begins.
    pub line: usize,
}

/// The commands of a text, none of them empty.
///
/// # Errors
/// [`Unended`]
pub(super) fn commands(text: &str) -> Result<Vec<Vec<Word>>, Unended> {
    let mut splitter = Splitter::default();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                splitter.end_command();
                line += 1;
            }
            ';' | '&' | '|' => splitter.end_command(),
            ' ' | '\t' | '\r' => splitter.end_word(),
            '#' if splitter.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '>' | '<' => {
                splitter.redirection();
                // `2>&1` is one redirection, not the end of a command.
                while chars.next_if(|c| matches!(c, '>' | '<' | '&' | '|')).is_some() {}
            }
            '\\' => match chars.next() {
                Some('\n') => line += 1,
                Some(c) => splitter.push(c, line),
                None => {}
            },
            '\'' => {
                let start = line;
                splitter.quote(line);
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            splitter.push(c, start);
                        }
                        None => return Err(Unended { line: start }),
                    }
                }
            }
            '"' => {
                let start = line;
                splitter.quote(line);
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some('\n') => line += 1,
                            Some(c @ ('"' | '\\' | '$' | '`')) => splitter.push(c, start),
                            Some(c) => {
                                splitter.push('\\', start);
                                splitter.push(c, start);
                            }
                            None => return Err(Unended { line: start }),
                        },
                        Some(c) => {
                            line += usize::from(c == '\n');
                            splitter.expand(c);
                            splitter.push(c, start);
                        }
                        None => return Err(Unended { line: start }),
                    }
                }
            }
            c => {
                splitter.push(c, line);
                splitter.expand(c);
            }
        }
    }
    splitter.end_command();
    Ok(splitter.commands)
}

#[derive(Default)]
struct Splitter {
    commands: Vec<Vec<Word>>,
    command: Vec<Word>,
    word: Option<Word>,
    /// The next word is where a redirection goes.
    target: bool,
}

impl Splitter {
    fn word(&mut self, line: usize) -> &mut Word {
        self.word.get_or_insert_with(|| Word::plain("", line))
    }

    fn push(&mut self, c: char, line: usize) {
        self.word(line).text.push(c);
    }

    fn quote(&mut self, line: usize) {
        let word = self.word(line);
        word.quoted |= word.text.is_empty();
    }

    fn expand(&mut self, c: char) {
        if let Some(word) = &mut self.word {
            word.expands |= matches!(c, '$' | '`');
        }
    }

    /// Digits right before it are the descriptor: no word.
    fn redirection(&mut self) {
        let digits = |w: &Word| !w.quoted && w.text.bytes().all(|b| b.is_ascii_digit());
        if self.word.as_ref().is_some_and(digits) {
            self.word = None;
        }
        self.end_word();
        self.target = true;
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take() {
            if !std::mem::take(&mut self.target) {
                self.command.push(word);
            }
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.target = false;
        if !self.command.is_empty() {
            self.commands.push(std::mem::take(&mut self.command));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<Vec<String>> {
        let commands = commands(text).unwrap();
        commands.into_iter().map(|c| c.into_iter().map(|w| w.text).collect()).collect()
    }

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, want) in [
            ("", vec![]),
            ("a b\tc\n\n  d", vec![vec!["a", "b", "c"], vec!["d"]]),
            ("a # b\n#c d\ne#f", vec![vec!["a"], vec!["e#f"]]),
            ("a='b c' \"d e\"f", vec![vec!["a=b c", "d ef"]]),
            ("a\\ b \\\nc", vec![vec!["a b", "c"]]),
            ("\"a\\\"b\\c\\$\" '\\'", vec![vec!["a\"b\\c$", "\\"]]),
            ("a; b & c || d", vec![vec!["a"], vec!["b"], vec!["c"], vec!["d"]]),
            ("a >/dev/null 2>&1 b < c\nd", vec![vec!["a", "b"], vec!["d"]]),
            ("'' a", vec![vec!["", "a"]]),
            ("a\r\nb\r\n", vec![vec!["a"], vec!["b"]]),
        ] {
            assert_eq!(split(text), want, "{text:?}");
        }
    }

    #[test]
    fn lines_expansions_and_quotes_are_noticed() {
        let all = commands("a=1\nb='x\ny' c=$a \\\nd=\"`e`\" f='$g'").unwrap().concat();
        let lines: Vec<usize> = all.iter().map(|w| w.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 4]);
        let expands: Vec<bool> = all.iter().map(|w| w.expands).collect();
        assert_eq!(expands, [false, false, true, true, false]);
        for bad in ["a\n'b", "a\n\"b", "a\n\"b\\"] {
            assert_eq!(commands(bad), Err(Unended { line: 2 }), "{bad}");
        }
    }

    #[test]
    fn assignments_are_told_from_words() {
        let of = |text: &str| {
            let word = commands(text).unwrap().concat().remove(0);
            word.assignment().map(|(name, value)| (name.to_owned(), value.text))
        };
        assert_eq!(of("a_1='b=c'"), Some(("a_1".into(), "b=c".into())));
        assert_eq!(of("a="), Some(("a".into(), String::new())));
        for no in ["a", "=a", "1a=b", "a-b=c", "'a=b'", "/a=b"] {
            assert_eq!(of(no), None, "{no}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_lines_are_within_it(text in "([a=]|[ '\"\\\\$#;&|<>\n]|\\PC){0,40}") {
            let last = text.matches('\n').count() + 1;
            match commands(&text) {
                Ok(commands) => {
                    prop_assert!(commands.iter().all(|c| !c.is_empty()));
                    prop_assert!(commands.iter().flatten().all(|w| (1..=last).contains(&w.line)));
                }
                Err(unended) => prop_assert!((1..=last).contains(&unended.line)),
            }
        }
    }
}
