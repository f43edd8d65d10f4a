//! The command line of the real binary: help, mistakes, exit codes. Nothing here needs root or a network.
#![allow(clippy::expect_used)] // A helper of a test may panic as well as the test.

use std::path::Path;
use std::process::{Command, Output};

fn xshelf(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xshelf")).args(arguments).output().expect("the binary runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.toml");
    std::fs::write(&path, text).expect("a file");
    let path = path.to_str().expect("UTF-8").to_owned();
    (dir, path)
}

/// One line on standard error that begins with the program's name.
fn assert_one_line(output: &Output) {
    let text = err(output);
    assert!(text.starts_with("xshelf: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn help_teaches_by_example_and_names_the_exit_codes() {
    let help = xshelf(&["--help"]);
    assert_eq!(code(&help), 0);
    let text = out(&help);
    assert!(text.contains("Examples:") && text.contains("Exit codes:"), "{text}");
    for line in text.lines().filter(|l| l.starts_with("  xshelf ")) {
        let subcommand = line.split_whitespace().nth(1).expect("a subcommand");
        let help = xshelf(&[subcommand, "--help"]);
        assert_eq!(code(&help), 0, "{subcommand}");
        assert!(out(&help).contains("Examples:\n  xshelf "), "{subcommand}");
        assert!(out(&help).contains("Exit codes"), "{subcommand}");
    }
}

#[test]
fn every_subcommand_has_examples() {
    let text = out(&xshelf(&["--help"]));
    let commands: Vec<&str> = text
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| l.starts_with("  "))
        // Not those that go on with a description.
        .filter(|l| !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.contains(&"check"), "{text}");
    for command in commands {
        let help = out(&xshelf(&["help", command]));
        assert!(help.contains("Examples:\n"), "{command}");
        assert!(help.contains(&format!("\n  xshelf {command} ")), "{command}");
        assert!(help.contains("Exit codes"), "{command}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = xshelf(&["--version"]);
    assert_eq!(out(&version), format!("xshelf {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_one_line_and_code_2() {
    for arguments in
        [&["chek"][..], &["check", "--jsn", "x"], &["check"], &["check", "--keys", "x"], &["check", "a", "b"]]
    {
        let output = xshelf(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert_one_line(&output);
    }
    assert!(err(&xshelf(&["chek"])).contains("'check'"));
}

#[test]
fn the_shipped_example_is_correct() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/xshelf.toml");
    let path = example.to_str().expect("UTF-8");
    let output = xshelf(&["check", "--document-only", path]);
    assert_eq!(code(&output), 0, "{}", out(&output));
    assert!(out(&output).ends_with("0 errors, 0 warnings\n"), "{}", out(&output));
    // What it shows in comments is correct too, and is every key there is.
    let text = std::fs::read_to_string(&example).expect("the example");
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) && key.contains(" = ") => key,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let (_dir, path) = file(&uncommented);
    let output = xshelf(&["check", "--document-only", &path]);
    assert_eq!(code(&output), 0, "{}", out(&output));
    let keys = out(&xshelf(&["check", "--keys"]));
    for key in keys.lines().filter_map(|l| l.strip_prefix("  ").filter(|l| !l.contains([' ', '.']))) {
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is missing in the example");
    }
}

#[test]
fn check_reports_every_mistake_with_its_place() {
    let (_dir, path) = file(
        "[[interface]]\nname = \"eth1\"\nmode = \"fast\"\n[[slot]]\nadress = \"7.0\"\npath = \"/none\"\n\
         [[slot]]\naddress = \"7.255\"\npath = \"/none\"\nserial = \"ABCDEFGHIJKLMNOPQRSTU\"\n",
    );
    let output = xshelf(&["check", "--document-only", &path]);
    assert_eq!(code(&output), 1);
    let text = out(&output);
    let want = [
        ":3:8: error: interface[0].mode: 'fast' is not known here; use one of ",
        ":4:1: error: slot[0].address: it is missing; add address = ",
        ":5:1: error: slot[0].adress: there is no such key in [[slot]]; did you mean address?",
        ":8:11: error: slot[1].address: slot 255 means every slot; use a slot from 0 to 254",
        ":9:8: error: slot[1].path: /none is served by another slot already (line 6); serve each backing once, or \
         parts of it (offset, length) that do not overlap",
        ":10:10: error: slot[1].serial: it has 21 characters; use 1 to 20 printable ASCII characters",
        ": 6 errors, 0 warnings",
    ];
    assert_eq!(text.lines().count(), want.len(), "{text}");
    for (line, want) in text.lines().zip(want) {
        assert!(line.starts_with(&format!("{path}{want}")), "{line}\n{want}");
    }
    assert_eq!(err(&output), "");
}

#[test]
fn mistakes_of_the_file_do_not_hide_those_of_the_machine() {
    let (_dir, path) = file(
        "[[interface]]\nname = \"nosuch0\"\n[[slot]]\naddress = \"7.0\"\npath = \"/none\"\n\
         [[slot]]\naddress = \"7.0\"\npath = \"/dev\"\n[workers]\ncount = \"two\"\n",
    );
    let output = xshelf(&["check", &path]);
    assert_eq!(code(&output), 1);
    let text = out(&output);
    for want in [
        ":2:8: error: interface[0].name: nosuch0: no such interface",
        ":5:8: error: slot[0].path: /none does not exist",
        ":7:11: error: slot[1].address: slot 7.0 was given before (line 4)",
        ":8:8: error: slot[1].path: /dev is a directory",
        ":10:9: error: workers.count: it is of type string",
    ] {
        assert!(text.contains(&format!("{path}{want}")), "{want}\n{text}");
    }
}

#[test]
fn check_speaks_json() {
    let (_dir, path) = file("[[interface]]\nname = \"eth1\"\n[[slot]]\naddress = \"7.0\"\npath = \"rel\"\n");
    let output = xshelf(&["check", "--document-only", "--json", &path]);
    assert_eq!(code(&output), 1);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    assert_eq!(report["errors"], 1);
    assert_eq!(report["mistakes"][0]["line"], 5);
    assert_eq!(report["mistakes"][0]["column"], 8);
    assert_eq!(report["mistakes"][0]["key"], "slot[0].path");
}

#[test]
fn check_looks_at_the_backings() {
    let dir = tempfile::tempdir().expect("a directory");
    let make = |name: &str, bytes: usize| {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![0; bytes]).expect("a file");
        path.display().to_string()
    };
    let (good, odd, empty) = (make("good", 4096), make("odd", 1000), make("empty", 0));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&good, &link).expect("a link");
    let slots: String = [&*good, &odd, &empty, "/nowhere/at/all", "/dev/null", &link.display().to_string()]
        .iter()
        .enumerate()
        .map(|(i, path)| format!("[[slot]]\naddress = \"7.{i}\"\npath = \"{path}\"\n"))
        .collect();
    let (_dir, path) = file(&format!("[[interface]]\nname = \"lo\"\n{slots}"));
    let output = xshelf(&["check", &path]);
    assert_eq!(code(&output), 1);
    let text = out(&output);
    for want in [
        format!(
            "{path}:8:8: error: slot[1].path: {odd} has 1000 bytes, which is no multiple of 512; make it 1024"
        ),
        format!("{path}:11:8: error: slot[2].path: {empty} is empty"),
        format!("{path}:14:8: error: slot[3].path: /nowhere/at/all does not exist"),
        format!("{path}:17:8: error: slot[4].path: /dev/null is a character device"),
        format!("{path}:20:8: error: slot[5].path: {} is the same as {good} of slot 7.0", link.display()),
    ] {
        assert!(text.contains(&want), "{want}\n{text}");
    }
    assert!(!text.contains(&format!("error: slot[0].path: {good}")), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_code_3() {
    let output = xshelf(&["check", "/nowhere/x.toml"]);
    assert_eq!(code(&output), 3);
    assert_one_line(&output);
    assert!(err(&output).starts_with("xshelf: /nowhere/x.toml: "));
}

#[test]
fn the_keys_are_explained() {
    let output = xshelf(&["check", "--keys"]);
    assert_eq!(code(&output), 0);
    for word in ["[[interface]]", "[[slot]]", "[workers]", "[memory]", "state-dir", "Default:"] {
        assert!(out(&output).contains(word), "{word}");
    }
}

#[test]
fn serve_reports_every_mistake_on_the_command_line() {
    let output = xshelf(&[
        "serve",
        "--interface",
        "eth1",
        "--mode",
        "natve",
        "--cores",
        "3-1",
        "disk.img",
        "7.0=/a,readonly",
        "7.0=/b,,c",
        "4095.0=/d",
        "7.9=/b,,c,serial=ABCDEFGHIJKLMNOPQRSTU",
    ]);
    assert_eq!(code(&output), 2);
    let want = [
        "argument '--mode natve': 'natve' is not known here; did you mean \"native\"?",
        "argument '--cores 3-1': the range 3-1 runs backwards; write 1-3",
        "argument 'disk.img': there is no '=' in it; write SHELF.SLOT=PATH, as in 7.0=disk.img",
        "argument '7.0=/a,readonly': there is no option 'readonly'; did you mean read-only?",
        "argument '4095.0=/d': Linux ignores shelf 4095; use a shelf from 0 to 65534 other than 4095",
        "argument '7.9=/b,,c,serial=ABCDEFGHIJKLMNOPQRSTU': serial: it has 21 characters; use 1 to 20",
        "argument '7.0=/b,,c': slot 7.0 was given before (argument '7.0=/a,readonly')",
        "argument '7.9=/b,,c,serial=ABCDEFGHIJKLMNOPQRSTU': /b,c is served by another slot already",
    ];
    let text = err(&output);
    assert_eq!(text.lines().count(), want.len(), "{text}");
    for (line, want) in text.lines().zip(want) {
        assert!(line.starts_with(&format!("xshelf: {want}")), "{line}\n{want}");
    }
}

#[test]
fn serve_takes_a_file_or_arguments_but_not_both() {
    for rest in [
        &["7.0=/a"][..],
        &["--interface", "eth1"],
        &["--read-only"],
        &["--mode", "auto"],
        &["--workers", "1"],
    ] {
        let output = xshelf(&[&["serve", "--config", "/x.toml"], rest].concat());
        assert_eq!(code(&output), 2, "{rest:?}");
        assert_one_line(&output);
        assert!(err(&output).contains("cannot be used with"), "{}", err(&output));
    }
    let output = xshelf(&["serve"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("add --interface NAME"), "{}", err(&output));
}

#[test]
fn serve_reports_every_mistake_of_its_file() {
    let (_dir, path) = file("[[interface]]\nname = \"eth1\"\n[[slot]]\naddress = \"7.0\"\nsize = 3\n");
    let output = xshelf(&["serve", "--config", &path]);
    assert_eq!(code(&output), 2);
    let text = err(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with(&format!("xshelf: {path}:3:1: slot[0].path: it is missing; add")), "{text}");
    assert!(
        lines[1].starts_with(&format!("xshelf: {path}:5:1: slot[0].size: there is no such key")),
        "{text}"
    );
    let output = xshelf(&["serve", "--config", "/nowhere.toml"]);
    assert_eq!(code(&output), 3);
    assert_one_line(&output);
}

#[test]
fn a_bad_log_filter_is_explained() {
    let output = xshelf(&["serve", "--log", "xshelf=loud", "--interface", "eth1", "7.0=/a"]);
    assert_eq!(code(&output), 2);
    assert_one_line(&output);
    assert!(err(&output).contains("'xshelf=loud'"), "{}", err(&output));
}

#[test]
fn an_interface_that_is_not_there_is_code_3() {
    let output = xshelf(&["check", "--interface", "no-such-if0"]);
    assert_eq!(code(&output), 3);
    assert_one_line(&output);
    assert!(err(&output).starts_with("xshelf: no-such-if0: no such interface"), "{}", err(&output));
}

/// The bits of Debian's /etc/vblade.conf.d (vblade-persistence(5)).
const VBLADE: &str =
    "# the array\nshelf=7\nslot=3\nnetif=eth1\nfilename=/dev/sdb\noptions='-s -o 8 -m 020000000001'\n";

#[test]
fn import_writes_what_check_accepts() {
    let (dir, path) = file(VBLADE);
    let output = xshelf(&["import", &path]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(err(&output).ends_with("1 slot, 0 warnings, 1 note\n"), "{}", err(&output));
    let toml = dir.path().join("ours.toml");
    std::fs::write(&toml, &output.stdout).expect("a file");
    let toml = toml.to_str().expect("UTF-8");
    let check = xshelf(&["check", "--document-only", toml]);
    assert_eq!(code(&check), 0, "{}", out(&check));
    assert!(
        out(&check).contains("slot 7.3: /dev/sdb, every write durable, from byte 4096 on, for one host\n"),
        "{}",
        out(&check)
    );

    // Into a file: never over another one unless that is wished.
    let output = xshelf(&["import", &path, "--output", toml]);
    assert_eq!(code(&output), 2);
    assert!(
        err(&output)
            .ends_with(&format!("xshelf: {toml} exists; name another file, or overwrite it with --force\n"))
    );
    std::fs::write(toml, "").expect("a file");
    assert_eq!(code(&xshelf(&["import", &path, "--output", toml, "--force"])), 0);
    let written = std::fs::read_to_string(toml).expect("the file");
    assert!(written.contains("\nallow = [\"02:00:00:00:00:01\"]\n"), "{written}");
    let fresh = dir.path().join("fresh.toml");
    assert_eq!(code(&xshelf(&["import", &path, "-o", fresh.to_str().expect("UTF-8")])), 0);
    assert_eq!(std::fs::read_to_string(&fresh).expect("the file"), written);
}

#[test]
fn import_tells_what_it_could_not_take() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    };
    write("vblade/a.conf", VBLADE);
    write("vblade/b.conf", "shelf=7\nslot=4\nnetif=eth1\nfilename=/dev/sdc\nionice=-c3\n");
    write("vblade/c.conf.off", "shelf=7\nslot=5\nnetif=eth1\nfilename=/dev/sdd\n");
    for (name, text) in [("SHELF", "8\n"), ("SLOT", "1\n"), ("NETIF", "eth2\n"), ("SOURCE", "/dev/sde\n")] {
        write(&format!("persist/e8.1/env/{name}"), text);
    }
    write("persist/e8.1/macs/020000000002", "");
    write("persist/e8.2/env/SHELF", "8\n");
    write(
        "ggaoed.conf",
        "[defaults]\ninterfaces = eth1\n[x]\npath = /dev/sdf\nshelf = 9\nslot = 0\nmax-delay = 0.1\n",
    );
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let output = xshelf(&["import", &path("vblade"), &path("persist"), &path("ggaoed.conf")]);
    assert_eq!(code(&output), 1);
    let toml = out(&output);
    let slots: Vec<&str> = toml.lines().filter(|l| l.starts_with("address = ")).collect();
    assert_eq!(slots, ["7.3", "7.4", "8.1", "9.0"].map(|a| format!("address = \"{a}\"")), "{toml}");
    let text = err(&output);
    let files: Vec<&str> = text.lines().filter_map(|l| l.split(':').next()?.rsplit('/').next()).collect();
    let order =
        ["a.conf", "b.conf", "e8.1", "e8.2", "ggaoed.conf"].map(|f| files.iter().position(|l| *l == f));
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{text}");
    let (vblade, persist, ggaoed) = (path("vblade"), path("persist"), path("ggaoed.conf"));
    for want in [
        format!("{vblade}/b.conf:5: warning: ionice has no counterpart"),
        format!("{persist}/e8.2: warning: its disk is left out: env/SLOT is missing or empty"),
        format!("{persist}/e8.1: warning: 8.1 was served on eth2 only"),
        format!("{ggaoed}:7: warning: max-delay has no counterpart"),
        "note: writes to 7.4, 8.1, 9.0 were acknowledged before they were on the disk".to_owned(),
    ] {
        assert!(text.contains(&want), "{want}\n{text}");
    }
    // What was lost stands in the file too.
    assert!(toml.contains("/b.conf:5: ionice has no counterpart"), "{toml}");

    for (arguments, want) in [
        (vec!["import".to_owned(), path("none")], 3),
        (vec!["import".into(), path("persist/e8.1/macs")], 2),
        (vec!["import".into(), path("vblade"), "--interface".into(), "a/b".into()], 2),
        (vec!["import".into(), path("vblade"), "-o".into(), path("none/x")], 3),
        (vec!["import".into(), path("vblade"), "--force".into()], 2),
        (vec!["import".into()], 2),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = xshelf(&arguments);
        assert_eq!(code(&output), want, "{arguments:?}\n{}", err(&output));
        assert!(err(&output).lines().last().is_some_and(|l| l.starts_with("xshelf: ")), "{}", err(&output));
    }
    std::fs::write(path("latin1"), b"# a\nshelf=\xe4\n").expect("a file");
    let output = xshelf(&["import", &path("latin1")]);
    assert_eq!(code(&output), 2);
    assert_one_line(&output);
    assert!(err(&output).contains("is not UTF-8 text from line 2 on"), "{}", err(&output));
}
