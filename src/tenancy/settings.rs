//! The bounds of admission as an operator sets them, made into the queue's rules.

use std::time::Duration;

use super::rules::{ClassRules, Rules, Standing};

/// How much is worked on at a time, and how much may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Online reads that use processors at a time; 0: one for each core.
    pub online_places: usize,
    /// Online reads under way, those included that wait for a disk.
    pub online_in_flight: usize,
    /// Reads that may wait for a disk at a time.
    pub disk_places: usize,
    /// Write requests under way; as many may wait of each tenant.
    pub ingest_places: usize,
    /// Training sets being made; as many as [`Self::TRAINING_WAITING`] may wait of each tenant.
    pub training_places: usize,
    /// Online reads of one tenant that may wait.
    pub max_waiting: usize,
    /// Bytes of the waiting requests of one tenant, in each class.
    pub max_waiting_bytes: usize,
    /// The wait of online reads past which, if more and more wait, the oldest are refused, and the newest
    /// served first.
    pub target_wait: Duration,
}

impl AdmissionSettings {
    const TRAINING_WAITING: usize = 16;
    /// How long writes and training sets wait at most, unless their caller's deadline is sooner.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// A queue of online reads that grows stands once its oldest has waited beyond the target for so many
    /// times the target: long enough that chance doesn't pass for it, and short enough that few have come
    /// by then who will be refused late.
    const STANDING: u32 = 5;
    /// In a queue that is kept short as much may wait as can be done in a target, divided by this. The newest goes
    /// first, so those in front wait in vain: with a quarter of a target they would be a tenth of all.
    const ROOM: u32 = 8;
    /// For so many targets a queue is kept short before it may grow again. If there is still too much, that shows after
    /// little more than one target: those who then wait in vain are about one in a hundred.
    const PROOF: u32 = 100;
    /// For so many targets a queue that has stood may stand again sooner.
    const AGAIN: u32 = 200;
    /// Callers with a budget of twice the target have given up well before.
    const IN_ORDER: u32 = 4;
    /// A queue that doesn't grow is given so many times its target, to work off what came together while
    /// the machine stood still: with a quarter of it free, that takes three times as long.
    const WORKED_OFF: u32 = 50;
    /// Writes keep an eighth of their places beside online reads that wait, and training sets one.
    const INGEST_FLOOR: usize = 8;
    /// One tenant alone has eight ninths of the online reads under way at most, two that ask for all they can get
    /// eight seventeenths each, and the rest is there for whoever comes.
    const FOR_EACH_FREE: usize = 8;
    /// What waits for a disk is bounded by what is under way, and each of it by its deadline.
    const DISK_PATIENCE: Duration = Duration::from_secs(24 * 3_600);
    const PULSE: Duration = Duration::from_millis(1);
    /// Who looks at its sockets so often answers a twentieth less where there is more than it can do.
    const SHARED_PULSE: Duration = Duration::from_micros(250);

    /// As the queue takes them.
    pub fn rules(&self) -> Rules {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let online = ClassRules {
            places: if self.online_places == 0 { cores() } else { self.online_places },
            in_flight: self.online_in_flight,
            for_each_free: Some(Self::FOR_EACH_FREE),
            floor: self.online_in_flight,
            max_waiting: self.max_waiting,
            max_waiting_bytes: self.max_waiting_bytes,
            patience: self.target_wait * Self::WORKED_OFF,
            standing: Some(Standing {
                target: self.target_wait,
                room: self.target_wait / Self::ROOM,
                proof: self.target_wait * Self::PROOF,
                after: self.target_wait * Self::STANDING,
                again: self.target_wait * Self::AGAIN,
                in_order: self.target_wait * Self::IN_ORDER,
            }),
        };
        let in_order = |places: usize, floor: usize, max_waiting: usize| ClassRules {
            places,
            in_flight: places,
            for_each_free: None,
            floor,
            max_waiting,
            max_waiting_bytes: self.max_waiting_bytes,
            patience: Self::PATIENCE,
            // A producer's sequences only rise, and who waits for a training set waits for it.
            standing: None,
        };
        let ingest = in_order(self.ingest_places, (self.ingest_places / Self::INGEST_FLOOR).max(1), self.ingest_places);
        let training = in_order(self.training_places, 1, Self::TRAINING_WAITING);
        let disk = ClassRules {
            max_waiting: usize::MAX,
            max_waiting_bytes: usize::MAX,
            patience: Self::DISK_PATIENCE,
            // No class keeps another from it.
            ..in_order(self.disk_places, self.disk_places, 0)
        };
        Rules { classes: [online, ingest, training, disk], pulse: Self::PULSE, shared_pulse: Self::SHARED_PULSE }
    }
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self {
            online_places: 0,
            online_in_flight: 1_024,
            disk_places: 4,
            ingest_places: 64,
            training_places: 2,
            max_waiting: 1_024,
            max_waiting_bytes: 64 << 20,
            target_wait: Duration::from_millis(5),
        }
    }
}
