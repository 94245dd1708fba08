//! Writes the manual pages of all commands, and completions for three shells, below a folder that
//! is laid out as `/usr/share`: `man/man1`, `bash-completion/completions`, and so on.
//!
//! Made from the same definitions that read the arguments, when a package is made; not installed.

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};
use synchromesh::cli::Cli;

/// Where each shell looks, and by which name.
const COMPLETIONS: [(Shell, &str, &str); 3] = [
    (Shell::Bash, "bash-completion/completions", "synchromesh"),
    (Shell::Zsh, "zsh/vendor-completions", "_synchromesh"),
    (Shell::Fish, "fish/vendor_completions.d", "synchromesh.fish"),
];

/// What the first page tells besides.
const MORE: &str = r#".SH "EXIT STATUS"
.TP
0
done
.TP
1
failed
.TP
2
wrong usage, recipe or configuration
.SH FILES
.TP
\fI/etc/synchromesh/synchromesh.yaml\fR
what the daemon serves; each key is explained there
.TP
\fI/run/synchromesh/control.sock\fR
where commands reach the daemon
.TP
\fI/run/synchromesh/attach.sock\fR
where programs get their view of the weights
.TP
\fI/var/lib/synchromesh\fR
bundles, and what the daemon keeps over restarts
.SH "SEE ALSO"
\fI/usr/share/doc/synchromesh/operations.md\fR
"#;

/// What every other page ends with.
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n\\fBsynchromesh\\fR(1)\n";

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [folder, date] = &arguments[..] else {
        io::stderr().write_all(b"usage: manual FOLDER YYYY-MM-DD\n")?;
        return Ok(ExitCode::from(2));
    };
    let folder = Path::new(folder);
    let pages = folder.join("man/man1");
    fs::create_dir_all(&pages)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &pages, date)?;
    for (shell, place, name) in COMPLETIONS {
        complete(shell, &folder.join(place), name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a command's page and those of the commands below it.
fn write_pages(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, folder, date)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    let more = if name == "synchromesh" { MORE } else { SEE_ALSO };
    let mut page = File::create(folder.join(format!("{name}.1")))?;
    // An empty default means that there is none; its brackets would only puzzle.
    let command = command.clone().mut_args(|argument| {
        let empty = argument.get_default_values().iter().all(|value| value.is_empty());
        argument.hide_default_value(empty)
    });
    Man::new(command)
        .title(name)
        .date(date)
        .source(concat!("synchromesh ", env!("CARGO_PKG_VERSION")))
        .manual("Synchromesh")
        .render(&mut page)?;
    page.write_all(more.as_bytes())
}

/// Writes a shell's completions under the name by which that shell finds them.
fn complete(shell: Shell, folder: &Path, name: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let written = generate_to(shell, &mut Cli::command(), "synchromesh", folder)?;
    fs::rename(written, folder.join(name))
}
