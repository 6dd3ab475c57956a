//! docker-compose.ha.yml and the Dockerfile as a container engine reads them: what each service runs,
//! with which environment, at which address, and how one asks whether it is well.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::balancer::shipped;
use crate::harness::process::binary;

/// What `.env.example` leaves to whoever fills it in.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The whole file, with a folder that stands for the volumes.
pub(super) struct Compose {
    /// Where the machine that all containers are on is, to them.
    pub(super) gateway: Ipv4Addr,
    pub(super) services: BTreeMap<String, Service>,
}

/// One service as it is started.
pub(super) struct Service {
    pub(super) image: String,
    /// Entrypoint and command; without them, what the image runs.
    pub(super) words: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Is well when it ends with success. For images of others: as far as the file says.
    pub(super) check: Option<Vec<String>>,
    pub(super) at: Place,
}

pub(super) enum Place {
    Own(Ipv4Addr),
    /// In the network of another service.
    Of(String),
}

/// What the Dockerfile's last stage gives its containers.
struct Image {
    environment: Vec<(String, String)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    check: Vec<String>,
    /// Where files of the project are in it.
    files: Vec<(String, PathBuf)>,
}

// === impl Compose ===

impl Compose {
    /// Volumes are folders in `folder`.
    pub(super) fn read(folder: &Path) -> Self {
        let file: Value = serde_saphyr::from_str(&text("docker-compose.ha.yml")).expect("YAML");
        let (variables, image) = (variables(), Image::read());
        let network = &file["networks"]["cluster"]["ipam"]["config"][0];
        let services = file["services"].as_object().expect("services");
        let services = services
            .iter()
            .map(|(name, it)| (name.clone(), Service::read(name, it, &variables, &image, folder)))
            .collect();
        Self { gateway: address(&network["gateway"]), services }
    }
}

/// `.env` as it is filled in.
fn variables() -> BTreeMap<String, String> {
    let example = text(".env.example");
    let lines = example.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            let value = if value.is_empty() { SECRET } else { value };
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

// === impl Service ===

impl Service {
    fn read(
        name: &str,
        it: &Value,
        variables: &BTreeMap<String, String>,
        image: &Image,
        folder: &Path,
    ) -> Self {
        let ours = string(&it["image"]).starts_with("holdfast:");
        let mut paths: Vec<(String, PathBuf)> = Vec::new();
        for volume in words(&it["volumes"]) {
            let mut parts = volume.split(':');
            let (source, inside) =
                (parts.next().expect("a source"), parts.next().expect("a place"));
            let real = match source.strip_prefix("./") {
                Some(path) => shipped(path),
                None => folder.join(source),
            };
            paths.push((inside.to_owned(), real));
        }
        let mut environment = Vec::new();
        if ours {
            paths.extend(image.files.iter().cloned());
            environment.extend(image.environment.iter().cloned());
        }
        for (name, value) in it["environment"].as_object().into_iter().flatten() {
            environment.push((name.clone(), substituted(&string(value), variables)));
        }
        if string(&it["image"]).starts_with("redis:") {
            // Where the image has its data, as start.sh knows.
            environment.push(("REDIS_DATA".into(), "/data".into()));
        }
        let placed = |word: String| match paths.iter().find(|(inside, _)| word.starts_with(inside))
        {
            Some((inside, real)) => format!("{}{}", real.display(), &word[inside.len()..]),
            None => word,
        };
        let given = |key: &str, own: &[String]| match words(&it[key]) {
            none if none.is_empty() && ours => own.to_vec(),
            given => given,
        };
        let words_ = [given("entrypoint", &image.entrypoint), given("command", &image.command)];
        let check = match words(&it["healthcheck"]["test"]).split_first() {
            Some((kind, rest)) if kind == "CMD" => Some(rest.to_vec()),
            Some((kind, rest)) if kind == "CMD-SHELL" => {
                Some(vec!["sh".into(), "-c".into(), rest.concat().replace("$$", "$")])
            }
            Some(other) => panic!("{name}: a check of another form: {other:?}"),
            None => ours.then(|| image.check.clone()),
        };
        let own = |word: String| match word.as_str() {
            "holdfast" => binary().display().to_string(),
            _ => word,
        };
        let at = match it["network_mode"].as_str().and_then(|mode| mode.strip_prefix("service:")) {
            Some(owner) => Place::Of(owner.to_owned()),
            None => Place::Own(address(&it["networks"]["cluster"]["ipv4_address"])),
        };
        Self {
            image: string(&it["image"]),
            words: words_.concat().into_iter().map(placed).map(own).collect(),
            environment: environment.into_iter().map(|(name, it)| (name, placed(it))).collect(),
            check: check.map(|words| words.into_iter().map(own).collect()),
            at,
        }
    }
}

// === impl Image ===

impl Image {
    fn read() -> Self {
        let dockerfile = text("Dockerfile").replace("\\\n", " ");
        let stage = dockerfile.rsplit("\nFROM ").next().expect("a stage").to_owned();
        let mut image = Self {
            environment: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            check: Vec::new(),
            files: Vec::new(),
        };
        for line in stage.lines() {
            let Some((instruction, rest)) = line.split_once(' ') else { continue };
            match instruction {
                "ENV" => image.environment.extend(
                    rest.split_whitespace()
                        .filter_map(|it| it.split_once('='))
                        .map(|(name, value)| (name.to_owned(), value.to_owned())),
                ),
                "ENTRYPOINT" => image.entrypoint = array(rest),
                "CMD" => image.command = array(rest),
                "HEALTHCHECK" => {
                    image.check = array(rest.split_once(" CMD ").expect("a command").1);
                }
                "COPY" if !rest.starts_with("--from") => {
                    let (source, inside) = rest.split_once(' ').expect("two paths");
                    image.files.push((inside.to_owned(), shipped(source)));
                }
                _ => {}
            }
        }
        image
    }
}

fn array(json: &str) -> Vec<String> {
    serde_json::from_str(json.trim()).unwrap_or_else(|e| panic!("{json}: {e}"))
}

/// `${NAME:?why}` and `${NAME:-default}`.
fn substituted(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inner, next) = after.split_once('}').expect("a closing brace");
        let (name, otherwise) = inner.split_once(':').unwrap_or((inner, "?"));
        out.push_str(before);
        match (variables.get(name), otherwise.strip_prefix('-')) {
            (Some(value), _) => out.push_str(value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => panic!("{name} is not set: {otherwise}"),
        }
        rest = next;
    }
    out + rest
}

fn text(path: &str) -> String {
    std::fs::read_to_string(shipped(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text and not {value}")).to_owned()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().map(|all| all.iter().map(string).collect()).unwrap_or_default()
}

fn address(value: &Value) -> Ipv4Addr {
    string(value).parse().expect("an IP address")
}
