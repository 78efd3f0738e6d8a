//! House rules that a machine can check: who may use whom, what the core may not touch, how long things are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

/// Which of our packages each may use (docs/architecture.md). A package that is not here fails the test.
const ARROWS: &[(&str, &[&str])] = &[
    ("starling-crdt", &[]),
    ("starling-sip", &[]),
    ("starling-tables", &["starling-crdt", "starling-sip"]),
    ("starling-kdmq", &["starling-crdt", "starling-sip", "starling-tables"]),
    ("starling-node", &["starling-crdt", "starling-sip", "starling-tables", "starling-kdmq"]),
    ("starling-admin", &[]),
    (
        "starling-daemon",
        &["starling-crdt", "starling-sip", "starling-tables", "starling-kdmq", "starling-node", "starling-admin"],
    ),
    ("starling-simulation", &["starling-crdt", "starling-sip", "starling-tables", "starling-kdmq", "starling-node"]),
    ("starling-cli", &["starling-daemon", "starling-admin", "starling-simulation"]),
    ("starling-xtask", &["starling-crdt"]),
];

/// May use everything, and nothing uses them.
const LEAVES: &[&str] = &["starling-tests"];

/// The packages that see neither clock nor randomness nor the world.
const PURE: &[&str] = &["starling-crdt", "starling-sip", "starling-tables", "starling-kdmq", "starling-node"];

/// Dependencies that bring the world along.
const WORLDLY: &[&str] = &[
    "tokio",
    "quinn",
    "rustls",
    "rcgen",
    "axum",
    "ureq",
    "fjall",
    "socket2",
    "getrandom",
    "tempfile",
    "tracing-subscriber",
];

/// What code of a pure package must not say, and why.
const BANNED: &[(&str, &str)] = &[
    ("Instant::now", "the clock comes in with the input"),
    ("SystemTime", "the clock comes in with the input"),
    ("std::thread", "the shell has the threads"),
    ("std::fs", "the shell has the files"),
    ("std::env", "the shell has the environment"),
    ("UdpSocket", "the shell has the sockets"),
    ("TcpStream", "the shell has the sockets"),
    ("TcpListener", "the shell has the sockets"),
    ("thread_rng", "the seed comes in at construction"),
    ("rand::rng(", "the seed comes in at construction"),
    ("from_os_rng", "the seed comes in at construction"),
    ("from_entropy", "the seed comes in at construction"),
    ("RandomState", "its order differs from run to run"),
    ("std::collections::HashMap", "its order differs from run to run"),
    ("std::collections::HashSet", "its order differs from run to run"),
    ("collections::{HashMap", "its order differs from run to run"),
    ("println!", "the shell does the talking"),
    ("eprintln!", "the shell does the talking"),
    ("extern \"C\"", "no foreign code"),
];

/// Lines of a file before its tests.
const FILE_LINES: usize = 500;
/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file that git knows or would take, relative to the root; without git, every file that is not built.
fn files() -> Vec<PathBuf> {
    let git = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output();
    let Some(out) = git.ok().filter(|out| out.status.success()) else {
        let mut found = Vec::new();
        walk(&root(), &mut found);
        return found;
    };
    let list = String::from_utf8_lossy(&out.stdout).into_owned();
    list.lines().map(PathBuf::from).filter(|f| root().join(f).is_file()).collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            if !matches!(entry.file_name().and_then(|n| n.to_str()), Some("target" | ".git")) {
                walk(&entry, found);
            }
        } else {
            found.push(entry.strip_prefix(root()).expect("below the root").to_owned());
        }
    }
}

fn metadata() -> Json {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// Name, kind (`null` or `dev`) and name of the dependency, of every package of ours.
fn dependencies() -> Vec<(String, Option<String>, String)> {
    let metadata = metadata();
    let mut out = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name").to_owned();
            out.push((name.to_owned(), dependency["kind"].as_str().map(str::to_owned), on));
        }
    }
    out
}

#[test]
fn packages_use_only_those_below_them() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<_> = ARROWS.iter().map(|(n, _)| *n).chain(LEAVES.iter().copied()).collect();
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        assert!(ours.contains(name), "{name} has no place in the arrows");
    }
    for (package, kind, on) in dependencies() {
        if LEAVES.contains(&package.as_str()) || !ours.contains(on.as_str()) || kind.is_some() {
            continue;
        }
        assert!(allowed[package.as_str()].contains(&on.as_str()), "{package} must not use {on}");
    }
}

#[test]
fn the_pure_packages_depend_on_nothing_worldly() {
    for (package, kind, on) in dependencies() {
        if PURE.contains(&package.as_str()) && kind.is_none() {
            assert!(!WORLDLY.contains(&on.as_str()), "{package} must not use {on}");
        }
    }
}

/// Rust files of the pure packages, with their code before the tests.
fn pure_code() -> Vec<(PathBuf, String)> {
    let dirs: Vec<_> = PURE.iter().map(|p| format!("crates/{}/src/", p.trim_start_matches("starling-"))).collect();
    code_files().into_iter().filter(|(f, _)| dirs.iter().any(|d| f.starts_with(d))).collect()
}

/// Rust files that are not tests, with comments, strings and everything from their tests on blanked.
fn code_files() -> Vec<(PathBuf, String)> {
    let source = |f: &PathBuf| {
        let text = f.to_string_lossy();
        f.extension().is_some_and(|e| e == "rs")
            && text.contains("/src/")
            && !text.contains("/tests/")
            && !text.ends_with("/tests.rs")
    };
    let read = |f: PathBuf| {
        let text = fs::read_to_string(root().join(&f)).unwrap_or_else(|e| panic!("{}: {e}", f.display()));
        let code = blank(&text);
        let end = code.find("#[cfg(test)]").unwrap_or(code.len());
        (f, code[..end].to_owned())
    };
    files().into_iter().filter(source).map(read).collect()
}

#[test]
fn the_pure_packages_touch_no_clock_no_entropy_and_no_world() {
    let mut found = Vec::new();
    for (file, code) in pure_code() {
        for (number, line) in code.lines().enumerate() {
            for (banned, why) in BANNED {
                // With a hasher of its own a table of the standard library is as good as any.
                let keyed = banned.contains("Hash") && code.contains("BuildHasher") && !code.contains("HashMap::new()");
                if line.contains(banned) && !keyed {
                    found.push(format!("{}:{}: {banned}: {why}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Names declared with a hashed type in a file, fields and variables.
fn hashed_names(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in code.lines() {
        for kind in ["HashMap<", "HashSet<", "HashTable<", "HashMap::", "HashSet::"] {
            let Some(at) = line.find(kind) else { continue };
            let before = line[..at]
                .trim_end_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ':' && line[..at].ends_with("::"));
            let before = before.trim_end().trim_end_matches([':', '=']).trim_end();
            let name: String = before.chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let name: String = name.chars().rev().collect();
            if !name.is_empty() && !matches!(name.as_str(), "hashbrown" | "use" | "type" | "impl" | "for") {
                names.insert(name);
            }
        }
    }
    names
}

#[test]
fn the_pure_packages_never_go_by_the_order_of_a_hash_table() {
    let mut found = Vec::new();
    for (file, code) in pure_code() {
        for name in hashed_names(&code) {
            for (number, line) in code.lines().enumerate() {
                let walks =
                    [".iter()", ".iter_mut()", ".keys()", ".values()", ".values_mut()", ".drain(", ".into_iter()"];
                let walked = walks.iter().any(|w| {
                    line.contains(&format!(".{name}{w}")) || line.trim_start().starts_with(&format!("{name}{w}"))
                });
                let looped = line.contains(&format!("in &self.{name} ")) || line.contains(&format!("in self.{name} "));
                if walked || looped {
                    found.push(format!("{}:{}: walks the hashed {name}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_have_at_most_500_lines_before_their_tests() {
    let long: Vec<_> = code_files()
        .into_iter()
        .map(|(file, code)| (code.lines().count(), file))
        .filter(|(lines, _)| *lines > FILE_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn functions_have_at_most_70_lines() {
    let mut long = Vec::new();
    for (file, code) in code_files() {
        for (name, line, length) in functions(&code) {
            if length > FUNCTION_LINES {
                long.push(format!("{}:{line}: {name} has {length} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_source_file_says_what_it_is() {
    let silent: Vec<_> = files()
        .into_iter()
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        // A file of tests below a module or below the root of a test binary belongs to what that one says.
        .filter(|f| !f.ends_with("tests.rs") && (!f.to_string_lossy().contains("/tests/") || f.starts_with("tests/")))
        .filter(|f| !fs::read_to_string(root().join(f)).unwrap_or_default().starts_with("//!"))
        .map(|f| f.display().to_string())
        .collect();
    assert!(silent.is_empty(), "without a //! at the top:\n{}", silent.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", "#[allow(unsafe_code)]", "#[allow(dead_code)]"];
    let mut found = Vec::new();
    for (file, code) in code_files() {
        for (number, line) in code.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for file in files().into_iter().filter(|f| f.ends_with("Cargo.toml") && f.components().count() > 1) {
        let text = fs::read_to_string(root().join(&file)).expect("a manifest");
        assert!(text.contains("[lints]\nworkspace = true"), "{}", file.display());
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    assert!(workspace.contains("unsafe_code = \"forbid\""));
}

#[test]
fn text_files_end_with_a_newline_and_name_no_place_of_this_machine() {
    // Put together here so that this file does not find itself.
    let places = [["/wo", "rk/"].concat(), ["/tmp/", "spec"].concat(), ["/root", "/."].concat()];
    let mut found = Vec::new();
    for file in files() {
        // Captured messages and corpora are exactly what was on the wire.
        let written = ["rs", "md", "toml", "lock", "in", "sh", "yml"];
        if !file.extension().is_none_or(|e| written.iter().any(|w| e == *w)) {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            found.push(format!("{}: does not end with one newline", file.display()));
        }
        for place in &places {
            if text.contains(place.as_str()) {
                found.push(format!("{}: names {place}", file.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Name, first line and number of lines of each function in blanked code.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let bytes = code.as_bytes();
    let mut out = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        // A body opens before the declaration ends: `fn f();` in a trait has none.
        let Some(open) = code[at..].find(['{', ';']).map(|i| at + i).filter(|i| bytes[*i] == b'{') else { continue };
        let mut depth = 0_usize;
        let close = code[open..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(open + i)
        });
        let Some(close) = close else { continue };
        let lines = |range: &str| range.matches('\n').count();
        out.push((name, lines(&code[..at]) + 1, lines(&code[at..close]) + 1));
    }
    out
}

/// The code with comments, strings and characters replaced by spaces, line breaks kept.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = skip(&chars, i);
        if end == i {
            out.push(chars[i]);
            i += 1;
        } else {
            out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out
}

/// The end of the comment, string or character literal that starts at `i`; `i` if none does.
fn skip(chars: &[char], i: usize) -> usize {
    let at = |k: usize| chars.get(k).copied().unwrap_or('\0');
    let after_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
    match (at(i), at(i + 1)) {
        ('/', '/') => (i..chars.len()).find(|k| at(*k) == '\n').unwrap_or(chars.len()),
        ('/', '*') => (i + 2..chars.len()).find(|k| at(*k) == '*' && at(k + 1) == '/').map_or(chars.len(), |k| k + 2),
        ('"', _) => end_of_string(chars, i + 1),
        ('b', '"') if !after_word => end_of_string(chars, i + 2),
        ('r', '"' | '#') if !after_word || at(i - 1) == 'b' => end_of_raw_string(chars, i + 1).unwrap_or(i),
        ('\'', '\\') => (i + 3..chars.len()).find(|k| at(*k) == '\'').map_or(chars.len(), |k| k + 1),
        ('\'', _) if at(i + 2) == '\'' => i + 3,
        _ => i,
    }
}

fn end_of_string(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// From behind the `r`; `None` if it is a raw identifier.
fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    let open = start + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |k: &usize| chars[*k] == '"' && chars[k + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((open + 1..chars.len()).find(closes).map_or(chars.len(), |k| k + 1 + hashes))
}

#[test]
fn the_rules_see_what_they_shall_see() {
    let code = "fn a() { // fn no() {\n let s = \"}\"; let c = '}'; let r = r#\"}\"#;\n}\ntrait T { fn b(); }\nfn c<'a>(x: &'a str) {}\n";
    let found = functions(&blank(code));
    assert_eq!(found, [("a".to_owned(), 1, 3), ("c".to_owned(), 5, 1)]);
    assert_eq!(blank("x // y\nz"), "x     \nz");
    let hashed = hashed_names("    cells: hashbrown::HashMap<Id, Cell>,\n    let seen = HashSet::new();\n");
    assert_eq!(hashed.into_iter().collect::<Vec<_>>(), ["cells", "seen"]);
}
