//! The table of rules in `docs/conformance.md`, held against the cases.

use crate::case::{self, Case};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

/// The rows of the two tables of the protocol that have to be covered one by one: every ATA opcode it names, ...
const OPCODES: &str = "20 24 30 34 EC E7 EA E5 B0 40 42 C8 25 CA 35 C4 29 C5 39 3D EF 06 90 91 C6 E0 E1 E2 E3 E6 27 F8 \
                       2F 3F 92 B1 F1 F2 F3 F4 F5 F6 other";
/// ... and every question on which implementations disagree.
const QUESTIONS: u32 = 46;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn path() -> PathBuf {
    root().join("docs/conformance.md")
}

/// A row: its rule, what stands in front of the cases, and the cases.
struct Row<'a> {
    rule: &'a str,
    front: &'a str,
    cases: Vec<&'a str>,
}

fn row(line: &str) -> Option<Row<'_>> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let (front, cases) = inner.rsplit_once(" | ")?;
    let rule = front.split(" | ").next()?;
    if !rule.contains('/') {
        return None;
    }
    Some(Row { rule, front, cases: cases.split_whitespace().map(|case| case.trim_matches('`')).collect() })
}

/// The cases of a rule, and behind them the tests that its row names.
fn cases_of<'a>(row: &Row<'a>, cases: &'a [Case]) -> Vec<&'a str> {
    let own =
        cases.iter().filter(|case| case.rule.iter().any(|rule| rule == row.rule)).map(|case| &case.id[..]);
    own.chain(row.cases.iter().copied().filter(|name| name.contains("::"))).collect()
}

#[test]
fn the_table_names_the_cases_of_every_rule() {
    let cases = case::all();
    let text = fs::read_to_string(path()).unwrap();
    let written: Vec<String> = text
        .lines()
        .map(|line| match row(line) {
            None => line.to_owned(),
            Some(row) => {
                let cases: Vec<_> = cases_of(&row, &cases).iter().map(|case| format!("`{case}`")).collect();
                format!("| {} | {} |", row.front, cases.join(" "))
            }
        })
        .collect();
    let written = written.join("\n") + "\n";
    if written != text && std::env::var_os("XSHELF_UPDATE").is_some() {
        return fs::write(path(), written).unwrap();
    }
    let other = text.lines().zip(written.lines()).find(|(old, new)| old != new);
    assert!(
        written == text,
        "run with XSHELF_UPDATE=1 to write the table anew; first difference: {other:#?}"
    );
}

#[test]
fn every_rule_has_a_row_and_every_row_a_case() {
    let text = fs::read_to_string(path()).unwrap();
    let rows: Vec<Row<'_>> = text.lines().filter_map(row).collect();
    let mut rules = HashSet::new();
    for row in &rows {
        assert!(rules.insert(row.rule), "rule {} has two rows", row.rule);
        assert!(!row.cases.is_empty(), "rule {} has no case", row.rule);
    }
    for case in case::all() {
        for rule in &case.rule {
            assert!(rules.contains(&rule[..]), "{} is for rule {rule}, which has no row", case.id);
        }
    }
    // Of these a test elsewhere would not do: each has a case of its own.
    let opcodes = OPCODES.split_whitespace().map(|opcode| format!("4.1/{opcode}"));
    for rule in opcodes.chain((1..=QUESTIONS).map(|n| format!("15/{n}"))) {
        let row =
            rows.iter().find(|row| row.rule == rule).unwrap_or_else(|| panic!("rule {rule} has no row"));
        assert!(row.cases.iter().any(|case| !case.contains("::")), "rule {rule} has no case");
    }
}

#[test]
fn tests_that_the_table_names_exist() {
    let text = fs::read_to_string(path()).unwrap();
    for row in text.lines().filter_map(row) {
        for name in row.cases.iter().filter(|case| case.contains("::")) {
            assert!(test_exists(name), "rule {}: there is no test {name}", row.rule);
        }
    }
}

/// Whether there is such a function in the file that its path names: of the library, or of an integration test.
fn test_exists(name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once("::") else { return false };
    let inline = module.strip_suffix("::tests").unwrap_or(module);
    let files = [module, inline].into_iter().flat_map(|module| {
        let file = module.replace("::", "/") + ".rs";
        ["src", "tests"].map(|directory| root().join(directory).join(&file))
    });
    let function = format!("fn {function}(");
    files.into_iter().any(|file| fs::read_to_string(file).is_ok_and(|source| source.contains(&function)))
}
