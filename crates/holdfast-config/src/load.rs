//! From a file to a [`Config`], or to everything that is wrong with it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::context::{Context, Readings};
use crate::document::File;
use crate::problem::{Place, Problem, Problems};
use crate::section::Section;
use crate::server::{Defaults, name_for_urls, read_mcp_servers, read_servers};
use crate::tree::{self, Node, Value};
use crate::{
    Admin, Auth, Bulkheads, Config, Env, Health, Limits, Listen, Log, Reload, RetryBudget,
    Sessions, Streams, Webhook, cluster, cross, environment, node::Node as NodeSection, redis,
};

/// Bytes of a configuration file.
const MAX_FILE: u64 = 4 << 20;

/// Holdfast's own sections; beside `mcpServers`, one of them makes the file ours.
const OWN_SECTIONS: [&str; 15] = [
    "node",
    "cluster",
    "listen",
    "admin",
    "limits",
    "sessions",
    "streams",
    "auth",
    "servers",
    "bulkheads",
    "retry_budget",
    "health",
    "notify",
    "log",
    "reload",
];

const EXAMPLE: &str = "begin with `servers:`, and below it `  files: { command: npx, args: [\"-y\", \
                       \"some-mcp-server\"] }` or `  docs: { url: \"http://127.0.0.1:3001/mcp\" }`";

/// Reads the file at `path`, or at `HOLDFAST_CONFIG` if there is none, puts the environment on
/// top and checks the whole.
///
/// # Errors
///
/// All problems at once.
pub fn load(path: Option<&Path>, env: Env<'_>) -> Result<Config, Problems> {
    read(path, env).map(|file| file.config)
}

/// As [`load`], with what a cluster agrees on of the file.
///
/// # Errors
///
/// All problems at once.
pub fn read(path: Option<&Path>, env: Env<'_>) -> Result<File, Problems> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => match env(environment::CONFIG).filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => {
                return Err(Problems::whole(
                    "configuration",
                    "no file is named".into(),
                    "a YAML file, or a desktop client's mcpServers JSON",
                    "name one with --config FILE or HOLDFAST_CONFIG",
                ));
            }
        },
    };
    let origin = path.display().to_string();
    let text = read_text(&path).map_err(|(found, cure)| {
        Problems::whole(&origin, found, "a text file of at most 4MiB that can be read", cure)
    })?;
    File::parse(&text, &origin, env)
}

/// Reads `text` as a configuration file. `origin` is what problems call it.
///
/// # Errors
///
/// All problems at once.
pub fn parse(text: &str, origin: &str, env: Env<'_>) -> Result<Config, Problems> {
    File::parse(text, origin, env).map(|file| file.config)
}

/// The tree of a text, and what is wrong with it that does not end its reading; none of an empty one.
pub(crate) fn grow(text: &str, origin: &str) -> Result<(Option<Node>, Vec<Problem>), Problems> {
    let mut problems = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = tree::parse(text, &mut problems);
    if let Some(tree) = &mut tree {
        name_for_urls(tree, &mut problems);
    }
    if tree.is_none() && !problems.is_empty() {
        return Err(Problems::new(origin, problems));
    }
    Ok((tree, problems))
}

/// The configuration that a tree is, with the environment on top.
pub(crate) fn read_tree(
    tree: Option<&Node>,
    mut problems: Vec<Problem>,
    origin: &str,
    env: Env<'_>,
) -> Result<(Config, Readings), Problems> {
    let context = Context::new(env);
    let (mut config, drafts) = read_file(tree, &context);
    let Drafts { mut cluster, mut redis } = drafts;
    environment::apply(&mut config, &context);
    cluster::apply(&mut cluster, &context);
    redis.apply(&context);
    cluster::settle(cluster, &mut config, &context);
    redis.settle(&mut config, &context);
    environment::without_effect(&config, &context);
    cross::check(&config, &context);

    let (found, notices, readings) = context.finish();
    problems.extend(found);
    if problems.is_empty() {
        config.notices = notices;
        Ok((config, readings))
    } else {
        Err(Problems::new(origin, problems))
    }
}

/// What is judged only once the file and the environment have both spoken.
struct Drafts {
    cluster: cluster::Draft,
    redis: redis::Draft,
}

fn read_file(tree: Option<&Node>, context: &Context<'_>) -> (Config, Drafts) {
    let mut drafts = Drafts { cluster: cluster::Draft::empty(), redis: redis::Draft::default() };
    let mut config = Config::default();
    let entries = match tree.map(|node| &node.value) {
        None | Some(Value::Null) => &[][..],
        Some(Value::Map(entries)) => entries,
        Some(Value::Scalar(_) | Value::List(_)) => {
            context.problem(Problem {
                place: tree.map_or(Place::File, |node| node.place.clone()),
                key: String::new(),
                found: "the file does not hold sections".into(),
                allowed: OWN_SECTIONS.join(", "),
                cure: EXAMPLE.into(),
            });
            return (config, drafts);
        }
    };
    let mut top = Section::new(context, String::new(), Place::File, entries);

    config.node = NodeSection::read(top.section("node"));
    drafts.cluster = cluster::Draft::read(top.section("cluster"));
    config.listen = Listen::read(top.section("listen"));
    config.admin = Admin::read(top.section("admin"));
    config.limits = Limits::read(top.section("limits"));
    (config.sessions, drafts.redis) = Sessions::read(top.section("sessions"));
    config.streams = Streams::read(top.section("streams"));
    config.auth = Auth::read(top.section("auth"));
    config.log = Log::read(top.section("log"));
    config.reload = Reload::read(top.section("reload"));
    config.bulkheads = Bulkheads::read(top.section("bulkheads"));
    config.retry_budget = RetryBudget::read(top.section("retry_budget"));
    let interval = environment::check_interval(context);
    config.health = Health::read(top.section("health"), interval);
    config.notify = Webhook::read_all(top.field("notify").as_ref());
    let breaker = environment::breaker(context);
    let defaults = Defaults { breaker, health: config.health.clone() };

    let before = context.problem_count();
    let servers = top.field("servers");
    let desktop = top.field("mcpServers");
    let foreign_file = desktop.is_some() && top.given(&OWN_SECTIONS).is_empty();
    let named = [&servers, &desktop]
        .into_iter()
        .flatten()
        .any(|field| matches!(&field.node.value, Value::Map(entries) if !entries.is_empty()));
    if let Some(field) = servers {
        read_servers(&field, &defaults, &mut config.servers);
    }
    if let Some(field) = desktop {
        read_mcp_servers(&field, &defaults, &mut config.servers);
    }
    // Servers with problems of their own have said so.
    if config.servers.is_empty() && context.problem_count() == before {
        if named { all_off(context) } else { no_servers(context) }
    }
    if foreign_file {
        tolerate(top)
    } else {
        top.finish()
    }
    (config, drafts)
}

fn no_servers(context: &Context<'_>) {
    context.problem(Problem {
        place: context.place_of("servers"),
        key: "servers".into(),
        found: "there is no server to stand in front of".into(),
        allowed: "at least one server".into(),
        cure: EXAMPLE.into(),
    });
}

/// Every server of a desktop file may be switched off, which leaves nothing to serve.
fn all_off(context: &Context<'_>) {
    context.problem(Problem {
        place: context.place_of("mcpServers"),
        key: "mcpServers".into(),
        found: "no server is left: all are switched off".into(),
        allowed: "at least one server".into(),
        cure: "switch one on".into(),
    });
}

/// A desktop client's own settings beside `mcpServers`.
fn tolerate(top: Section<'_>) {
    let foreign: Vec<&str> = top.unknown().map(|entry| entry.key.as_str()).collect();
    if !foreign.is_empty() {
        top.context.notice(format!("{}: no effect here", foreign.join(", ")));
    }
    top.finish_but(&foreign);
}

/// The file's text, or what is wrong and what to do.
fn read_text(path: &Path) -> Result<String, (String, &'static str)> {
    let failed = |error: io::Error| {
        let cure = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "let the user that runs the gateway read it",
            _ => "check the path and the disk",
        };
        (format!("it cannot be read: {error}"), cure)
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(("it is a directory".into(), "name a file in it"));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(("it is larger than 4MiB".into(), "check that this is a configuration file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let found = format!("it is not text: byte {at} is not UTF-8");
        (found, "save it as UTF-8, or check that this is a configuration file")
    })
}
