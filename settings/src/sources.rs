//! What was given, as text and read once: a file, the process's environment, flags. What it means
//! is not known here.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::Path};

/// The sources of settings, read once; later ones of file, environment and flags win.
#[derive(Debug, Default)]
pub struct Sources {
    /// The TOML file, when one was named.
    pub file: Option<File>,
    /// The process's environment variables whose values are UTF-8.
    pub environment: BTreeMap<String, String>,
    /// Names of variables whose values are not UTF-8.
    pub unreadable: Vec<String>,
    /// The flags that were given, by the name that [`Setting::flag`](crate::Setting::flag) makes.
    pub flags: BTreeMap<String, String>,
}

/// A file, or why it cannot be read.
#[derive(Debug)]
pub struct File {
    /// The file's path, as the user wrote it.
    pub name: String,
    /// The file's content, or why it cannot be read.
    pub text: std::io::Result<String>,
}

impl Sources {
    /// The process's environment, and what the command line gave.
    #[must_use]
    pub fn of_process(file: Option<&Path>, flags: BTreeMap<String, String>) -> Self {
        Self {
            flags,
            ..Self::default()
        }
        .with_environment(std::env::vars_os())
        .with_file(file)
    }

    /// The same sources with this file in place of another.
    #[must_use]
    pub fn with_file(mut self, file: Option<&Path>) -> Self {
        self.file = file.map(|path| File {
            name: path.display().to_string(),
            text: std::fs::read_to_string(path),
        });
        self
    }

    /// The same sources with these variables besides.
    #[must_use]
    pub(crate) fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        for (name, value) in variables {
            // No setting has such a name.
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => _ = self.environment.insert(name, value),
                Err(_) => self.unreadable.push(name),
            }
        }
        self
    }
}

/// Where a value comes from, as its user knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Default,
    /// The file's name and the line in it, from 1.
    File(String, usize),
    Variable(String),
    /// The flag's name, without the dashes before it.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name, line) => write!(f, "{name}, line {line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}
