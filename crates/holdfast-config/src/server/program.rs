//! Whether the program of a process can be run at all: a server that cannot be started would show only
//! once it is called.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use secrecy::ExposeSecret as _;

use super::Stdio;
use crate::field::{Field, quoted};

/// What is wrong with a file as a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unfit {
    Missing,
    Directory,
    NotExecutable,
}

/// Looks for the program of `stdio`, whose command stands at `field`. A path that is certain to be the one
/// that is run is a problem where nothing can be run there. What depends on the surroundings of the process
/// that starts it, a name that `PATH` finds or a path from a working directory, is a notice.
pub(super) fn check(field: &Field<'_>, stdio: &Stdio) {
    let command = stdio.command.as_str();
    if !command.contains('/') {
        return look_up(field, stdio);
    }
    let path = stdio.cwd.clone().unwrap_or_default().join(command);
    let Err(unfit) = program(&path) else { return };
    let found = format!("{} {}", path.display(), unfit.said());
    if path.is_absolute() {
        field.problem(found, "a program that exists and may be executed", unfit.cure());
    } else {
        field.context.notice(format!(
            "{}: {found} in this working directory; write the whole path, or cwd",
            field.path
        ));
    }
}

/// Looks a bare name up as the process that starts it will.
fn look_up(field: &Field<'_>, stdio: &Stdio) {
    let own = stdio.env.get("PATH").map(|path| path.expose_secret().to_owned());
    let Some(folders) = own.or_else(|| (field.context.env)("PATH")) else { return };
    let mut places = std::env::split_paths(&folders).map(|folder| folder.join(&stdio.command));
    if places.all(|place| program(&place).is_err()) {
        field.context.notice(format!(
            "{}: {} is in no folder of PATH here; install it where the node runs, or write its whole path",
            field.path,
            quoted(&stdio.command)
        ));
    }
}

/// # Errors
/// Why the file cannot be run. What cannot be told, because a folder may not be looked into, is none.
fn program(path: &Path) -> Result<(), Unfit> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(Unfit::Directory),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Err(Unfit::NotExecutable),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(_) => Err(Unfit::Missing),
    }
}

impl Unfit {
    fn said(self) -> &'static str {
        match self {
            Self::Missing => "does not exist",
            Self::Directory => "is a directory",
            Self::NotExecutable => "is not executable",
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Self::Missing => "install it on this machine, or correct the path",
            Self::Directory => "name the program in it",
            Self::NotExecutable => {
                "chmod +x it, or name the program that runs it and put it into args"
            }
        }
    }
}
