//! Where a report goes: standard output, a page, and histogram files. Whether files can be written is
//! found out before the run, not after it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{
    cli::Options,
    link::Results,
    report::{Report, curve, html},
};

/// A report cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("--{option} {}: {error}; name a {kind} that can be written", path.display())]
    Path {
        option: &'static str,
        path: PathBuf,
        kind: &'static str,
        error: io::Error,
    },
    #[error("the report cannot be written to standard output: {0}")]
    Standard(io::Error),
    #[error("the report is no JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What was asked for.
pub(crate) struct Output {
    json: bool,
    report: Option<PathBuf>,
    hgrm: Option<PathBuf>,
}

fn wrong_file(option: &'static str, path: &Path, error: io::Error) -> OutputError {
    OutputError::Path {
        option,
        path: path.into(),
        kind: "file",
        error,
    }
}

/// Finds out whether a file can be written, and leaves what is in it.
pub(crate) fn check_file(option: &'static str, path: &Path) -> Result<(), OutputError> {
    if path.as_os_str() == "-" {
        let error = io::Error::other("standard output has the figures");
        return Err(wrong_file(option, path, error));
    }
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened
        .map(drop)
        .map_err(|error| wrong_file(option, path, error))
}

/// Writes a file as a whole.
pub(crate) fn write_file(
    option: &'static str,
    path: &Path,
    content: &str,
) -> Result<(), OutputError> {
    fs::write(path, content).map_err(|error| wrong_file(option, path, error))
}

impl Output {
    /// Makes sure of the files and folders that the options name.
    pub(crate) fn prepare(options: &Options) -> Result<Self, OutputError> {
        if let Some(path) = &options.report {
            check_file("report", path)?;
        }
        if let Some(path) = &options.hgrm {
            fs::create_dir_all(path).map_err(|error| wrong_folder(path, error))?;
        }
        Ok(Self {
            json: options.json,
            report: options.report.clone(),
            hgrm: options.hgrm.clone(),
        })
    }

    /// Files come first: who reads standard output may be gone.
    pub(crate) fn write(&self, report: &Report, results: &Results) -> Result<(), OutputError> {
        if let Some(path) = &self.report {
            write_file("report", path, &html::page(report))?;
        }
        if let Some(folder) = &self.hgrm {
            for (name, times) in curve::histograms(results) {
                let path = folder.join(format!("{name}.hgrm"));
                let written = File::create(&path).and_then(|file| {
                    let mut file = BufWriter::new(file);
                    curve::write_hgrm(&times.0, &mut file)?;
                    file.flush()
                });
                written.map_err(|error| wrong_folder(&path, error))?;
            }
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(report)? + "\n",
            false => report.to_string(),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(OutputError::Standard)
    }
}

fn wrong_folder(path: &Path, error: io::Error) -> OutputError {
    OutputError::Path {
        option: "hgrm",
        path: path.into(),
        kind: "folder",
        error,
    }
}
