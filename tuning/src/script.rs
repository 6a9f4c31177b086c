//! The changes as a shell script, for whoever wants to read them, or to make them another way.

use std::{collections::BTreeMap, fmt::Write};

use crate::plan::{Change, Kind};

/// A script that makes the changes with `apply`, and takes them back with `undo`. `ROOT` in its
/// environment comes before all paths.
pub(crate) fn script(
    changes: &[Change],
    files: &BTreeMap<String, String>,
    sessions: u64,
) -> String {
    let (mut apply, mut undo) = (String::new(), String::new());
    let line =
        |out: &mut String, text: &str| writeln!(out, "  {text}").expect("a String takes all text");
    for Change { what, why, source } in changes {
        line(&mut apply, &format!("# {why} ({source})"));
        match what {
            Kind::Value {
                path,
                before,
                after,
                ..
            } => {
                line(&mut apply, &format!("put {} {}", quote(after), quote(path)));
                line(&mut undo, &format!("put {} {}", quote(before), quote(path)));
            }
            Kind::Run { words, undo: back } => {
                let quoted = |words: &[String]| {
                    words
                        .iter()
                        .map(|word| quote(word))
                        .collect::<Vec<_>>()
                        .join(" ")
                };
                line(&mut apply, &quoted(words));
                line(&mut undo, &quoted(back));
            }
            Kind::Unit { line: text } => line(&mut apply, &format!("# {text}: in a file below")),
        }
    }
    for (path, text) in files {
        line(
            &mut apply,
            &format!("keep {} <<'END'\n{text}END", quote(path)),
        );
        line(&mut undo, &format!("rm -f \"$ROOT\"{}", quote(path)));
    }
    for out in [&mut apply, &mut undo] {
        line(
            out,
            "if [ -d \"$ROOT/run/systemd/system\" ]; then systemctl daemon-reload; fi",
        );
    }
    format!(
        "#!/bin/sh\n# Tunes this host for {sessions} sessions of online-status: \"$0\" apply, as root.\n\
         # \"$0\" undo takes it back.\nset -eu\nROOT=${{ROOT:-}}\n\
         put() {{ printf '%s\\n' \"$1\" >\"$ROOT$2\"; }}\n\
         keep() {{ mkdir -p \"$(dirname \"$ROOT$1\")\"; cat >\"$ROOT$1\"; }}\n\
         case \"${{1:-}}\" in\napply)\n{apply}  ;;\nundo)\n{undo}  ;;\n\
         *)\n  echo \"usage: $0 apply|undo\" >&2\n  exit 2\n  ;;\nesac\n"
    )
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
