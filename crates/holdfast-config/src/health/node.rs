//! `node.health`: when a node itself is not well.

use std::time::Duration;

use crate::field::Field;
use crate::section::Section;

/// Three lines that a value may cross. Most are crossed upwards; `success` and
/// `certificate_expiry` downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels<T> {
    /// Worth a look.
    pub warning: T,
    /// Something is wrong.
    pub critical: T,
    /// The node is about to fail.
    pub emergency: T,
}

/// When a node itself is not well. Shares are 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// Share of the processor.
    pub cpu: Levels<f64>,
    /// Share of the memory that the node may use.
    pub memory: Levels<f64>,
    /// Share of the disk that holds `node.data_dir`; of a disk of more than 20 GiB, share of its last 20 GiB.
    pub disk: Levels<f64>,
    /// Share of calls that the gateway answered without an error of its own; falling.
    pub success: Levels<f64>,
    /// 95th percentile of what the gateway itself adds and servers take. 1ms to 1h.
    pub p95: Levels<Duration>,
    /// Client connections at once. 1 to 10,000,000.
    pub connections: Levels<u64>,
    /// Time until a certificate ends; falling. 0s to 365d.
    pub certificate_expiry: Levels<Duration>,
}

impl Default for NodeHealth {
    fn default() -> Self {
        let (ms, day) = (Duration::from_millis, Duration::from_secs(86_400));
        Self {
            cpu: Levels::new(0.7, 0.85, 0.95),
            memory: Levels::new(0.75, 0.9, 0.95),
            disk: Levels::new(0.8, 0.9, 0.95),
            success: Levels::new(0.98, 0.95, 0.9),
            p95: Levels::new(ms(500), ms(1000), ms(2000)),
            connections: Levels::new(5000, 8000, 10_000),
            certificate_expiry: Levels::new(day * 30, day * 7, day),
        }
    }
}

// === impl Levels ===

impl<T> Levels<T> {
    /// The three lines in the order in which they are crossed.
    pub const fn new(warning: T, critical: T, emergency: T) -> Self {
        Self { warning, critical, emergency }
    }
}

// === impl NodeHealth ===

impl NodeHealth {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut health = Self::default();
        let share = |field: &Field<'_>| field.share(&(0.0..=1.0));
        let time = |field: &Field<'_>| field.duration(&(ms..=s * 3600));
        let days = |field: &Field<'_>| field.duration(&(Duration::ZERO..=s * 86_400 * 365));
        let count = |field: &Field<'_>| field.count(&(1..=10_000_000));
        health.cpu.read(section.field("cpu"), share, Crossed::Upwards);
        health.memory.read(section.field("memory"), share, Crossed::Upwards);
        health.disk.read(section.field("disk"), share, Crossed::Upwards);
        health.success.read(section.field("success"), share, Crossed::Downwards);
        health.p95.read(section.field("p95"), time, Crossed::Upwards);
        health.connections.read(section.field("connections"), count, Crossed::Upwards);
        let certificate = section.field("certificate_expiry");
        health.certificate_expiry.read(certificate, days, Crossed::Downwards);
        section.finish();
        health
    }
}

/// In which direction a value gets worse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crossed {
    Upwards,
    Downwards,
}

impl<T: PartialOrd + Copy> Levels<T> {
    /// `[warning, critical, emergency]`.
    fn read<'a>(
        &mut self,
        field: Option<Field<'a>>,
        read: impl Fn(&Field<'a>) -> Option<T>,
        crossed: Crossed,
    ) {
        let Some(field) = field else { return };
        let Some(items) = field.items() else { return };
        let [warning, critical, emergency] = items.as_slice() else {
            field.problem(
                format!("a list of {}", items.len()),
                "three values: [warning, critical, emergency]",
                "write all three",
            );
            return;
        };
        let (Some(warning), Some(critical), Some(emergency)) =
            (read(warning), read(critical), read(emergency))
        else {
            return;
        };
        let (fits, allowed) = match crossed {
            Crossed::Upwards => (warning <= critical && critical <= emergency, "rising values"),
            Crossed::Downwards => (warning >= critical && critical >= emergency, "falling values"),
        };
        if !fits {
            field.problem(
                "values out of order".into(),
                &format!("{allowed}: the worst last"),
                "sort them: [warning, critical, emergency]",
            );
            return;
        }
        *self = Self::new(warning, critical, emergency);
    }
}
