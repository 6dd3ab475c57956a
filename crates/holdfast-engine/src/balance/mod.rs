//! Which of several instances gets a call.
//!
//! [`pick`] gets the candidates as they are now and says which, and [`why`] it was not one of the
//! others. It allocates nothing: sets of candidates are bits of one word, so a server has at most
//! [`MOST`] instances. All chance is one argument of 64 bits.
//!
//! | strategy | chooses |
//! |---|---|
//! | weighted | at random, by weight × health × warmth; only above a health of 0.5 |
//! | least connections | of two, one in turn and one at random, each as often as it is warm, the one with clearly less to do: (in flight + 1) × usual time / weight |
//! | read/write | Writes: the primary. Reads: the replicas, the nearest region first; then the primary |
//! | hash | by a key, the same as long as it is there (rendezvous) |
//! | rate-aware | the one with the largest share of its allowance left |
//! | round robin | one after the other |
//!
//! In this order, each rule over what the one before it left:
//! 1. What may not be used is left out: a breaker, a pause, a limit, tried already, not the active one.
//! 2. A client stays with its instance for a while ([`Sticky`]), if that is still there and well.
//! 3. What is unwell (health at most 0.5) is left out, unless fewer than `panic` of all are well: then
//!    all are used, since the rest would break under the load of all. Breakers hold in a panic too;
//!    they have their own way back.
//! 4. The nearest region that has any is preferred.
//! 5. One that has to be tried now ([`Candidate::due`]) goes first, unless a key says where the call goes.
//! 6. The strategy decides.
//!
//! An instance that came back gets its share bit by bit over the slow start; after a cold start, when
//! all are new, none does ([`Candidate::back_for`]).

mod filter;
pub mod latency;
pub mod rate;
#[cfg(test)]
mod tests;

pub use filter::{NoInstance, Set, why};

/// The most candidates; those beyond are never chosen.
pub const MOST: usize = 64;
/// At this health and below an instance is left out while there are better ones.
pub const UNWELL: f32 = 0.5;
/// Of two instances one is better if it has less to do than this share of the other's.
const CLEARLY: f32 = 0.8;
/// The least share of its weight that an instance gets in its slow start.
const COLD: f32 = 0.1;

/// How one of several is chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Strategy {
    /// One after the other.
    RoundRobin,
    /// At random, by weight and health.
    Weighted,
    /// The one with the least to do, for its weight.
    #[default]
    LeastConnections,
    /// Writes to the primary, Reads to the replicas.
    ReadWrite,
    /// The same key to the same instance.
    Hash,
    /// The one with the most left of its allowance.
    RateAware,
}

/// What an instance is to its server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Role {
    /// Takes everything.
    #[default]
    Primary,
    /// Takes everything while it is the active one.
    Secondary,
    /// Takes Reads.
    Replica,
}

/// An instance as it is now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// Its place in the configuration.
    pub id: u16,
    /// What it is to the server.
    pub role: Role,
    /// How far its region is: 0 for the node's own, then by preference.
    pub distance: u16,
    /// Its configured weight; 0 counts as 1.
    pub weight: u32,
    /// Its health, 0 to 1; what is no number counts as 0.
    pub score: f32,
    /// Calls that run at it, from this node.
    pub in_flight: u32,
    /// So many may; 0: any number.
    pub limit: u32,
    /// How long it usually takes, in microseconds ([`latency::Latency`]); 0: not known.
    pub latency: f32,
    /// What is left of its allowance, 0 to 1 ([`rate`]); 1 without one.
    pub allowance: f32,
    /// How long it has been back, in milliseconds; none: it was never away, as after a cold start.
    pub back_for: Option<u64>,
    /// Its breaker lets few calls pass, and none has tried it for its probe interval: one does now, or what it
    /// is avoided for would keep away what shows that it is well again.
    pub due: bool,
    /// The same for all nodes and as long as it is configured: of its name ([`seed`]).
    pub seed: u64,
    /// Whether it may be used at all, and why not. What its breaker, the server's failover and whatever
    /// else say.
    pub admitted: Result<(), Why>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// It only reads: a replica will do.
    pub is_read: bool,
    /// The instance that the client used last, if it has to stay with it for a while.
    pub sticky: Option<Sticky>,
    /// The hash of the key, for [`Strategy::Hash`]; without one: at random.
    pub key: Option<u64>,
    /// Counts up with each call of the server.
    pub turn: u64,
    /// Those that this call has tried in vain.
    pub tried: Set,
}

/// An instance that a client stays with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sticky {
    /// Its place in the configuration.
    pub id: u16,
    /// How long ago the client last used it, in milliseconds.
    pub used_ago: u64,
}

/// A server's balancing as configured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Params {
    /// How one is chosen.
    pub strategy: Strategy,
    /// How long a client stays with its instance after its last call, in milliseconds; 0: not at all.
    pub sticky_for: u64,
    /// If a smaller share is well, all are used; 0: never.
    pub panic: f32,
    /// How long an instance that came back takes to its whole share, in milliseconds; 0: no time.
    pub slow_start: u64,
}

/// Why an instance did not get a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Why {
    /// Its breaker is open.
    BreakerOpen,
    /// Its breaker lets few through, and this call is not one of them.
    Recovering,
    /// It asked for a pause, and that lasts.
    PushedBack,
    /// There is no connection to it.
    Unreachable,
    /// An operator keeps it out.
    Forced,
    /// The server fails over; the call waits.
    Paused,
    /// Another instance is the active one.
    Standby,
    /// It takes no new calls.
    Draining,
    /// It has its limit of calls.
    Full,
    /// Its allowance is used up.
    RateLimited,
    /// This call has tried it in vain.
    Tried,
    /// It is a replica, and the call is no Read.
    ReadsOnly,
    /// It is unwell, and others are not.
    Unwell,
    /// Another region is nearer.
    Farther,
    /// Reads go to the replicas.
    ReplicasFirst,
    /// The client stays with another.
    Sticky,
    /// The strategy chose another.
    NotChosen,
}

/// The choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Picked {
    /// Where among the candidates it is.
    pub index: usize,
    /// Its place in the configuration.
    pub id: u16,
    /// On what ground.
    pub ground: Ground,
}

/// On what ground an instance was chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ground {
    /// The client stays with it.
    Sticky,
    /// There is no other.
    Only,
    /// It has to be tried now.
    Due,
    /// The strategy chose it.
    Chosen,
    /// The same, of all that there are: too few are well.
    Panic,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            sticky_for: 3_600_000,
            panic: 0.5,
            slow_start: 30_000,
        }
    }
}

/// Chooses one of the candidates. `random`: any 64 random bits.
///
/// # Errors
/// [`NoInstance`] if none may be used: with the reason of each.
pub fn pick(
    candidates: &[Candidate],
    request: &Request,
    params: &Params,
    random: u64,
) -> Result<Picked, NoInstance> {
    let field = filter::field(candidates, request, params);
    let chosen = |index: usize, ground| Picked { index, id: candidates[index].id, ground };
    if let Some(index) = field.sticky {
        return Ok(chosen(index, Ground::Sticky));
    }
    let (Some(first), Some(last)) = (field.open.first(), field.open.last()) else {
        return Err(NoInstance::of(candidates, request, params));
    };
    if first == last {
        return Ok(chosen(first, if field.is_panic { Ground::Panic } else { Ground::Only }));
    }
    let due = || field.open.iter().find(|it| candidates[*it].due);
    if let Some(index) = due().filter(|_| request.key.is_none()) {
        return Ok(chosen(index, Ground::Due));
    }
    let index = match params.strategy {
        Strategy::RoundRobin => nth(field.open, request.turn % u64::from(field.open.len())),
        Strategy::Weighted => weighted(candidates, field.open, params, random),
        Strategy::LeastConnections | Strategy::ReadWrite => {
            least_busy(candidates, field.open, params, request.turn, random)
        }
        Strategy::Hash => {
            highest(field.open, |it| rendezvous(&candidates[it], request.key.unwrap_or(random)))
        }
        // Of equal allowances another one each time, by the turn that chance gives it.
        Strategy::RateAware => highest(field.open, |it| {
            f64::from(candidates[it].allowance) + chance(mix(random ^ candidates[it].seed)) * 1e-6
        }),
    };
    let index = index.unwrap_or(first);
    Ok(chosen(index, if field.is_panic { Ground::Panic } else { Ground::Chosen }))
}

/// The seed of an instance's name: what [`Strategy::Hash`] knows it by on every node.
#[must_use]
pub fn seed(name: &str) -> u64 {
    // FNV-1a, then mixed, since names that differ in their last byte would lie close together.
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// Spreads 64 bits over 64 bits (the finaliser of splitmix64).
#[must_use]
pub fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

// === impl Candidate ===

impl Candidate {
    /// A candidate of which nothing is known but its place: well, idle, warm.
    #[must_use]
    pub fn new(id: u16, seed: u64) -> Self {
        Self {
            id,
            role: Role::Primary,
            distance: 0,
            weight: 1,
            score: 1.0,
            in_flight: 0,
            limit: 0,
            latency: 0.0,
            allowance: 1.0,
            back_for: None,
            due: false,
            seed,
            admitted: Ok(()),
        }
    }

    fn weight(&self) -> f32 {
        self.weight.max(1) as f32
    }

    /// How far it has warmed up, above 0 to 1; none: it has.
    fn warmth(&self, params: &Params) -> Option<f32> {
        let back = self.back_for.filter(|back| *back < params.slow_start)?;
        Some((back as f32 / params.slow_start as f32).max(COLD))
    }

    /// Its health; what is no number is 0.
    fn health(&self) -> f32 {
        if self.score.is_nan() { 0.0 } else { self.score.clamp(0.0, 1.0) }
    }
}

// === The strategies ===

/// At random, by weight and health.
fn weighted(all: &[Candidate], open: Set, params: &Params, random: u64) -> Option<usize> {
    // In a panic even what has no health at all has a chance.
    let weight = |it: usize| {
        let warmth = all[it].warmth(params).unwrap_or(1.0);
        f64::from(all[it].weight() * warmth * all[it].health().max(0.01))
    };
    let total: f64 = open.iter().map(weight).sum();
    let mut left = chance(random) * total;
    open.iter().find(|it| {
        left -= weight(*it);
        left < 0.0
    })
}

/// The better of two: one in turn, and another at random. All nodes look at figures that are a little
/// old; if all took the best of all they would all take the same. Where neither is clearly better it is
/// the one whose turn it is, so that an instance that is a little slower is not left idle.
fn least_busy(
    all: &[Candidate],
    open: Set,
    params: &Params,
    turn: u64,
    random: u64,
) -> Option<usize> {
    let count = u64::from(open.len());
    let one = turn % count;
    // Drawn from the rest; those after the first move up.
    let other = scaled(random, count - 1);
    let other = if other >= one { other + 1 } else { other };
    let (one, other) = (nth(open, one)?, nth(open, other)?);
    // One that is cold is looked at as seldom as it is cold; then it is one like the other. Measured
    // by its warmth it would get nothing, and then everything at once.
    let takes_part = |it: usize| {
        let warmth = all[it].warmth(params);
        warmth.is_none_or(|warmth| chance(mix(random ^ all[it].seed)) < f64::from(warmth))
    };
    match (takes_part(one), takes_part(other)) {
        (true, false) => return Some(one),
        (false, true) => return Some(other),
        (true, true) | (false, false) => {}
    }
    // Whoever was not called yet is taken for as fast as the other.
    let usual = |it: usize, than: usize| match all[it].latency {
        known if known > 0.0 => known,
        _ if all[than].latency > 0.0 => all[than].latency,
        _ => 1.0,
    };
    let cost = |it: usize, than: usize| {
        let busy = all[it].in_flight.saturating_add(1) as f32 * usual(it, than);
        busy / (all[it].weight() * all[it].health().max(0.01))
    };
    Some(if cost(other, one) < cost(one, other) * CLEARLY { other } else { one })
}

/// How much a candidate wants a key: by its weight the highest for its share of the keys.
fn rendezvous(candidate: &Candidate, key: u64) -> f64 {
    // Above 0 and below 1, so that the logarithm is a number below 0.
    let drawn = (mix(key ^ candidate.seed) >> 11) as f64 + 0.5;
    let drawn = drawn / (1_u64 << 53) as f64;
    -f64::from(candidate.weight.max(1)) / drawn.ln()
}

fn highest(open: Set, value: impl Fn(usize) -> f64) -> Option<usize> {
    open.iter().map(|it| (it, value(it))).max_by(|one, two| one.1.total_cmp(&two.1)).map(|it| it.0)
}

fn nth(open: Set, at: u64) -> Option<usize> {
    open.iter().nth(usize::try_from(at).ok()?)
}

/// 64 random bits as a number of 0 to below 1.
fn chance(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// 64 random bits as a number below `below`; 0 if that is 0.
fn scaled(random: u64, below: u64) -> u64 {
    u64::try_from((u128::from(random) * u128::from(below)) >> 64).unwrap_or(0)
}
