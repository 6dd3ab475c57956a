//! The programs of servers that are processes: what is said of one that cannot be run.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::{problem, read};

/// A folder with a program and a file that is none, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("programs-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        for (file, mode) in [("server", 0o755), ("notes", 0o644)] {
            let file = path.join(file);
            std::fs::write(&file, "#!/bin/sh\n").expect("a file");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
        }
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn notices(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    read(text, variables).unwrap_or_else(|problems| panic!("{problems:#?}")).notices
}

#[test]
fn a_path_at_which_nothing_can_be_run_is_a_problem() {
    let folder = Folder::new("paths");
    let whole = folder.0.display();
    for (command, why) in [
        (folder.file("srever"), "does not exist"),
        (folder.file("server/in-it"), "does not exist"),
        (folder.file("notes"), "is not executable"),
        (folder.0.display().to_string(), "is a directory"),
    ] {
        let found = problem(&format!("servers: {{ files: {{ command: {command} }} }}\n"));
        assert_eq!(found.key, "servers.files.command");
        assert_eq!(found.found, format!("{command} {why}"));
        let desktop = format!(r#"{{"mcpServers": {{"files": {{"command": "{command}"}}}}}}"#);
        assert_eq!(problem(&desktop).found, format!("{command} {why}"));
        let off =
            desktop.replace("}}}", r#", "disabled": true}, "docs": {"url": "http://a/mcp"}}}"#);
        assert!(read(&off, &[]).is_ok(), "it is switched off: {off}");
    }
    let relative = format!("servers: {{ files: {{ command: ./srever, cwd: {whole} }} }}\n");
    assert!(problem(&relative).found.contains("srever does not exist"));
    for good in [
        format!("servers: {{ files: {{ command: {} }} }}\n", folder.file("server")),
        format!("servers: {{ files: {{ command: ./server, cwd: {whole} }} }}\n"),
    ] {
        assert_eq!(notices(&good, &[]), [""; 0], "{good}");
    }
}

/// The node may find it where this process does not.
#[test]
fn a_name_that_is_not_found_here_is_said_and_no_more() {
    let folder = Folder::new("names");
    let whole = folder.0.display().to_string();
    let path = format!("/nowhere:{whole}");
    let with = |command: &str| format!("servers: {{ files: {{ command: {command} }} }}\n");
    assert_eq!(notices(&with("server"), &[("PATH", &path)]), [""; 0]);
    for command in ["srever", "notes"] {
        let said = notices(&with(command), &[("PATH", &path)]);
        let expected = format!("servers.files.command: \"{command}\" is in no folder of PATH here");
        assert!(matches!(&said[..], [one] if one.starts_with(&expected)), "{said:?}");
    }
    // It is started with a PATH of its own.
    let own = format!("servers: {{ files: {{ command: server, env: {{ PATH: {whole} }} }} }}\n");
    assert_eq!(notices(&own, &[("PATH", "/nowhere")]), [""; 0]);
    let other = "servers: { files: { command: server, env: { PATH: /nowhere } } }\n";
    assert_eq!(notices(other, &[("PATH", &path)]).len(), 1);
    // Where the node is started decides.
    let relative = notices(&with("./no-such-server"), &[]);
    assert!(relative.concat().contains("does not exist in this working directory"), "{relative:?}");
}
