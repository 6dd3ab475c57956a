//! The check of consistency before a switch: one call at both sides, and whether the answers agree.

use holdfast_config::CheckKind;
use holdfast_engine::health::score::{Failure, Outcome};
use serde::{Deserialize, Serialize};

use crate::plane::At;
use crate::shared::Shared;

/// What is to be compared, by the names of the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) server: String,
    /// The side that is left; none where it is of no use any more.
    pub(crate) from: Option<String>,
    pub(crate) to: String,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Compared {
    /// Both say the same, or the old side says nothing.
    Alike,
    /// The new side does not do, and why: it refuses, is wrong, or says otherwise than the old one.
    Unlike(String),
    /// The new side was not reached from here, and how that failed.
    NotReached(String),
}

/// How one side failed.
enum Side {
    NotReached(String),
    Wrong(String),
}

impl Compared {
    pub(crate) fn result(self) -> Result<(), String> {
        match self {
            Self::Alike => Ok(()),
            Self::Unlike(why) | Self::NotReached(why) => Err(why),
        }
    }
}

/// Makes the configured call at both sides from here. The old side need not answer.
pub(crate) async fn compare(shared: &Shared, wanted: &Wanted) -> Compared {
    let Some((server, planned)) = shared.plan.find(&wanted.server) else {
        return Compared::NotReached("the server is not configured here".to_owned());
    };
    let consistency = planned.failover.as_ref().and_then(|it| it.consistency.as_ref());
    let Some(consistency) = consistency else { return Compared::Alike };
    let kind = CheckKind::Tool {
        tool: consistency.tool.clone(),
        arguments: consistency.arguments.clone(),
        contains: None,
    };
    let within = planned.health.timeout;
    let ask = async |id: &str| {
        let wrong = |why: &str| Side::Wrong(why.to_owned());
        let instance = planned.place(id).ok_or_else(|| wrong("it is not configured"))?;
        let asked = shared.plane.check(At { server, instance }, &kind, within);
        let Ok(made) = tokio::time::timeout(within, asked).await else {
            return Err(Side::NotReached("no answer in time".to_owned()));
        };
        match made.outcome {
            Outcome::Passed | Outcome::Partly(_) => Ok(made.text),
            Outcome::Failed(failure) => {
                let why = match made.text.as_str() {
                    "" => failure.label().to_owned(),
                    text => format!("{}: {text}", failure.label()),
                };
                Err(match failure {
                    Failure::Unreachable | Failure::TimedOut => Side::NotReached(why),
                    Failure::Authentication | Failure::Wrong => Side::Wrong(why),
                })
            }
            Outcome::Skipped => Err(wrong("it cannot be made")),
        }
    };
    let (old, new) = match &wanted.from {
        Some(from) => {
            let (old, new) = tokio::join!(ask(from), ask(&wanted.to));
            (old.ok(), new)
        }
        None => (None, ask(&wanted.to).await),
    };
    match (old, new) {
        (_, Err(Side::NotReached(why))) => Compared::NotReached(why),
        (_, Err(Side::Wrong(why))) => Compared::Unlike(why),
        (Some(old), Ok(new)) if old != new => {
            let from = wanted.from.as_deref().unwrap_or_default();
            Compared::Unlike(format!("{} answers otherwise than {from}", wanted.to))
        }
        (_, Ok(_)) => Compared::Alike,
    }
}
