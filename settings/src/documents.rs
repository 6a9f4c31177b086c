//! Man pages and shell completions, made from the definition of a command line.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate_to};

const FOLDER: &str = "folder";

/// The command that writes them; [`write_documents`] does what it says.
#[must_use]
pub fn documents_command() -> Command {
    Command::new("documents")
        .about("Writes man pages and shell completions (bash, zsh, fish) into a folder")
        .arg(
            Arg::new(FOLDER)
                .value_name("FOLDER")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The folder; it is made when it is not there"),
        )
}

/// Writes the documents of `program` into the folder that `arguments`, those of
/// [`documents_command`], name, and ends the process: with 1 when it cannot.
///
/// # Panics
/// When the arguments are another command's.
pub fn write_documents(program: &Command, arguments: &ArgMatches) -> ! {
    let folder: &PathBuf = arguments.get_one(FOLDER).expect("it is required");
    match write(program, folder) {
        Ok(()) => process::exit(0),
        Err(error) => {
            crate::eprintln!("error: {}: {error}", folder.display());
            process::exit(1)
        }
    }
}

fn write(program: &Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut program.clone(), program.get_name(), folder)?;
    }
    clap_mangen::generate_to(program.clone(), folder)
}
