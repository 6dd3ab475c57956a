//! What befalls Redis, one fault at a time, each with the proof that it happened.

use std::time::Duration;

use tokio::time::Instant;

use super::{Incident, What, calm};
use crate::Error;
use crate::load::ledger::Ledger;
use crate::redis::Redis;
use crate::stack::Stack;

/// How long a fault lasts: several times what a failover takes.
const LASTS: Duration = Duration::from_secs(8);
/// How long all of Redis is away.
const AWAY: Duration = Duration::from_secs(10);
/// How long a killed server is away where nobody takes its place.
const DOWN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn strike(
    what: What,
    stack: &mut Stack,
    ledger: &Ledger,
) -> Result<(Incident, Option<Error>), Error> {
    let redis = stack.redis.as_ref().ok_or("void: there is no Redis to befall")?;
    let fails_over = redis.kind.fails_over();
    let primary = redis.primary().await.ok_or("nobody is primary")?;
    let victim = match what {
        What::ReplicaKill => replica_of(redis, primary).ok_or("void: there are no replicas")?,
        _ => primary,
    };
    let mut incident = Incident::new(what, &redis.servers[victim].name, ledger);
    incident.store_away = match what {
        What::RedisCutNodes | What::RedisAway | What::RedisFlush => true,
        What::ReplicaKill | What::RedisSlow | What::RedisFailover => false,
        _ => !fails_over,
    };
    match what {
        What::RedisKill => {
            stack.redis()?.kill_server(victim)?;
            let expected = fails_over.then_some(primary);
            watch(stack, expected, DOWN, ledger, &mut incident).await;
            replaced(stack, expected, ledger, &mut incident).await?;
            stack.redis()?.start_server(victim).await?;
        }
        What::RedisRestart => {
            stack.redis()?.kill_server(victim)?;
            stack.redis()?.start_server(victim).await?;
            watch(stack, None, DOWN, ledger, &mut incident).await;
        }
        What::ReplicaKill => {
            stack.redis()?.kill_server(victim)?;
            watch(stack, None, LASTS / 2, ledger, &mut incident).await;
            stack.redis()?.start_server(victim).await?;
        }
        What::RedisAway => {
            let all = stack.redis()?.servers.len();
            incident.victim = "all of Redis".into();
            for server in 0..all {
                stack.redis()?.kill_server(server)?;
            }
            watch(stack, None, AWAY, ledger, &mut incident).await;
            for server in 0..all {
                stack.redis()?.start_server(server).await?;
            }
        }
        What::RedisFreeze => {
            stack.redis()?.servers[victim].freeze().await?;
            let expected = fails_over.then_some(primary);
            watch(stack, expected, LASTS, ledger, &mut incident).await;
            let replaced = replaced(stack, expected, ledger, &mut incident).await;
            stack.redis()?.servers[victim].thaw()?;
            replaced?;
        }
        What::RedisFailover => {
            stack.redis()?.fail_over(primary).await?;
            watch(stack, Some(primary), DOWN, ledger, &mut incident).await;
            replaced(stack, Some(primary), ledger, &mut incident).await?;
        }
        What::RedisFlush => {
            let gone = stack.redis()?.flush().await?;
            incident.victim = format!("{gone} keys");
            watch(stack, None, DOWN, ledger, &mut incident).await;
        }
        _ => cut(what, stack, primary, ledger, &mut incident).await?,
    }
    Ok(calm(incident, stack, ledger).await)
}

/// Faults of the links.
async fn cut(
    what: What,
    stack: &mut Stack,
    primary: usize,
    ledger: &Ledger,
    incident: &mut Incident,
) -> Result<(), Error> {
    let redis = stack.redis()?;
    redis.links.look().await;
    let mark = redis.links.held();
    match what {
        What::RedisCut => redis.cut_off(primary),
        What::RedisCutNodes => redis.cut_from_nodes(primary),
        What::RedisSplit => redis.split_off(primary),
        _ => {
            incident.victim = "all of Redis".into();
            redis.slow_down();
        }
    }
    let fails_over = matches!(what, What::RedisCut | What::RedisSplit) && redis.kind.fails_over();
    let expected = fails_over.then_some(primary);
    watch(stack, expected, LASTS, ledger, incident).await;
    let replaced = replaced(stack, expected, ledger, incident).await;
    let redis = stack.redis()?;
    let effect = redis.links.held() > mark;
    redis.links.heal();
    replaced?;
    if !effect {
        return Err(format!("void: nothing was held up at {}", incident.victim).into());
    }
    Ok(())
}

/// A server that stands behind the primary.
fn replica_of(redis: &Redis, primary: usize) -> Option<usize> {
    let many = redis.servers.len();
    let other = if redis.sentinels.is_empty() { primary + many / 2 } else { primary + 1 } % many;
    (other != primary).then_some(other)
}

/// Looks on for as long as the fault lasts, and notes who noticed what.
async fn watch(
    stack: &Stack,
    before: Option<usize>,
    lasts: Duration,
    ledger: &Ledger,
    incident: &mut Incident,
) {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        if incident.said.is_none() && !stack.store_is_well().await {
            incident.said = Some(ledger.now() - incident.from);
        }
        if let (Some(before), None, Some(redis)) = (before, incident.replaced, &stack.redis)
            && redis.successor(before).await.is_some()
        {
            incident.replaced = Some(ledger.now() - incident.from);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Where a failover is expected, the fault lasts until it has come.
async fn replaced(
    stack: &mut Stack,
    before: Option<usize>,
    ledger: &Ledger,
    incident: &mut Incident,
) -> Result<(), Error> {
    let Some(before) = before else { return Ok(()) };
    stack.redis()?.replaced(before).await?;
    incident.replaced.get_or_insert_with(|| ledger.now() - incident.from);
    Ok(())
}
