//! Which configuration a command means, and what to say when there is none.

use std::path::{Path, PathBuf};

use holdfast_config::{Config, File, Place, Problem, Problems};
use holdfast_proxy::tls;

use super::{ConfigArgs, Failure};
use crate::configuration::Origin;

/// Where a configuration is looked for when none is named.
const USUAL: [&str; 2] = ["holdfast.yaml", "config/holdfast.yaml"];

const NONE: &str = r#"holdfast: there is no configuration
    looked for: --config FILE, the variable HOLDFAST_CONFIG, ./holdfast.yaml, ./config/holdfast.yaml
    cure:       save these three lines as holdfast.yaml, or try `holdfast demo`

servers:
  docs: { url: "http://127.0.0.1:3001/mcp" }
  files: { command: npx, args: ["-y", "@modelcontextprotocol/server-filesystem", "."] }"#;

/// The file that is meant.
pub(crate) fn find(args: &ConfigArgs) -> Result<PathBuf, Failure> {
    if let Some(path) = &args.config {
        return Ok(path.clone());
    }
    if let Some(path) = env("HOLDFAST_CONFIG").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let usual = USUAL.iter().map(Path::new).find(|path| path.exists());
    usual.map(Path::to_owned).ok_or_else(|| Failure::Usage(NONE.into()))
}

/// Whether one is named or found.
pub(crate) fn is_there(args: &ConfigArgs) -> bool {
    find(args).is_ok()
}

/// The file that is meant and what it says, with the environment on top.
pub(crate) fn read(args: &ConfigArgs) -> Result<Origin, Failure> {
    let path = find(args)?;
    match checked(&path) {
        Ok(file) => Ok(Origin { path, file }),
        Err(problems) => Err(Failure::Usage(problems.to_string())),
    }
}

/// What a file says, with the environment on top, and whether the files that it names are of use.
///
/// # Errors
/// All problems of the file at once, or of those that it names.
pub(crate) fn checked(path: &Path) -> Result<File, Problems> {
    let file = File::read(Some(path), &env)?;
    let list = unfit_pairs(&file.config);
    match list.is_empty() {
        true => Ok(file),
        false => Err(Problems { origin: path.display().to_string(), list }),
    }
}

/// The certificates that cannot be used with their keys.
fn unfit_pairs(config: &Config) -> Vec<Problem> {
    let listeners = [("listen.tls", &config.listen.tls), ("admin.tls", &config.admin.tls)];
    let of_listeners = listeners.into_iter().filter_map(|(key, tls)| {
        let tls = tls.as_ref()?;
        Some((key, &tls.certificate, &tls.key))
    });
    let to_redis = config.sessions.redis.as_ref().and_then(|redis| {
        let tls = redis.tls.as_ref()?;
        Some(("sessions.redis.tls", tls.client_cert.as_ref()?, tls.client_key.as_ref()?))
    });
    let unfit = |(key, certificate, secret): (&str, &PathBuf, &PathBuf)| {
        let error = tls::check_pair(certificate, secret).err()?;
        Some(Problem {
            place: Place::File,
            key: key.to_owned(),
            found: format!("{:#}", anyhow::Error::from(error)),
            allowed: "a certificate, and the private key that it was made for".into(),
            cure: "name the two that belong together, or have a new certificate made".into(),
        })
    };
    of_listeners.chain(to_redis).filter_map(unfit).collect()
}

/// The configuration that is meant, checked, with the environment on top.
pub(crate) fn load(args: &ConfigArgs) -> Result<Config, Failure> {
    let path = find(args)?;
    holdfast_config::load(Some(&path), &env)
        .map_err(|problems| Failure::Usage(problems.to_string()))
}

/// A variable of the process; one that is not UTF-8 counts as not set.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
