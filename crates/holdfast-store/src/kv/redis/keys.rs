//! Every key in Redis.
//!
//! | key | holds | gone |
//! |---|---|---|
//! | `{prefix:BB}` and a key of the store | an entry | with its deadline; a session's when the coordinator has ended it, a hint's never |
//! | `{prefix:BB}due` | the sessions of the bucket that have a deadline, by it | with the last of them |
//! | `{prefix:BB}mark` | a random number that was there when the store was found | with the store |
//! | `{prefix:BB}probe` | nothing: it is written before each `WAIT` | after a second |
//! | `prefix:changes` | (a channel) which entries were written | – |
//!
//! `BB` is the bucket, two hexadecimal digits. The braces make it a hash tag: whatever a script
//! touches is in one slot of Redis Cluster. 64 buckets spread well over any number of masters that
//! makes sense here, and are few enough to look through for what is due.

/// How many buckets there are. It is part of where things are: another number finds nothing.
pub(super) const BUCKETS: u8 = 64;

/// Slots of Redis Cluster.
pub(super) const SLOTS: u16 = 16384;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bucket(u8);

/// The names of keys under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Of every bucket, in their order: what is named with each write is named once.
    buckets: Vec<Named>,
    channel: String,
}

#[derive(Clone, Debug)]
struct Named {
    tag: String,
    due: String,
}

impl Bucket {
    /// The bucket of a key of the store.
    pub(super) fn of(key: &[u8]) -> Self {
        // Below BUCKETS.
        Self((crc16(key) % u16::from(BUCKETS)) as u8)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..BUCKETS).map(Self)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        let named = |bucket: Bucket| {
            let tag = format!("{{{prefix}:{:02x}}}", bucket.0);
            Named { due: tag.clone() + "due", tag }
        };
        Self { buckets: Bucket::all().map(named).collect(), channel: format!("{prefix}:changes") }
    }

    pub(super) fn entry(&self, key: &[u8]) -> Vec<u8> {
        [self.tag(Bucket::of(key)).as_bytes(), key].concat()
    }

    pub(super) fn due(&self, bucket: Bucket) -> &[u8] {
        self.buckets[bucket.index()].due.as_bytes()
    }

    pub(super) fn mark(&self, bucket: Bucket) -> String {
        format!("{}mark", self.tag(bucket))
    }

    pub(super) fn probe(&self, bucket: Bucket) -> String {
        format!("{}probe", self.tag(bucket))
    }

    pub(super) fn channel(&self) -> &[u8] {
        self.channel.as_bytes()
    }

    /// The slot of a bucket in Redis Cluster.
    pub(super) fn slot(&self, bucket: Bucket) -> u16 {
        let tag = self.tag(bucket);
        crc16(&tag.as_bytes()[1..tag.len() - 1]) % SLOTS
    }

    /// What the names of a bucket's keys begin with; an entry's goes on with its key of the store.
    pub(super) fn tag(&self, bucket: Bucket) -> &str {
        &self.buckets[bucket.index()].tag
    }
}

/// CRC16/XMODEM, as the cluster specification has it. A Write asks for that of its key six times.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let [high, low] = crc.to_be_bytes();
        CRCS[usize::from(high ^ byte)] ^ (u16::from(low) << 8)
    })
}

/// Those of single bytes.
const CRCS: [u16; 256] = {
    let mut crcs = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        crcs[byte] = crc;
        byte += 1;
    }
    crcs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn what_a_script_touches_is_in_one_bucket() {
        let names = Names::new("holdfast");
        let key = b"s/0123456789abcdef";
        let bucket = Bucket::of(key);
        let tag = format!("{{holdfast:{:02x}}}", bucket.0);
        assert!(names.entry(key).starts_with(tag.as_bytes()));
        assert!(names.entry(key).ends_with(key));
        assert_eq!(names.due(bucket), format!("{tag}due").as_bytes());
        assert_eq!(names.mark(bucket), format!("{tag}mark"));
    }

    #[test]
    fn buckets_are_filled_evenly_and_a_key_stays_in_its_own() {
        let mut filled = [0_u32; BUCKETS as usize];
        for key in 0..64_000_u32 {
            filled[Bucket::of(&key.to_be_bytes()).index()] += 1;
        }
        for (bucket, count) in filled.iter().enumerate() {
            assert!((500..2000).contains(count), "bucket {bucket} has {count}");
        }
        // Pinned: another number here would lose what another version has written.
        assert_eq!([&b"123456789"[..], b""].map(|key| Bucket::of(key).0), [0x03, 0]);
    }
}
