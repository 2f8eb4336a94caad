//! The swarm in virtual time: the real decisions of `umbel_swarm`, [`umbel_swarm::Download`] in every peer and
//! [`umbel_swarm::Petal`] in every edge, on a network that is described and not there. It opens no socket, reads no clock, and
//! does the same each time that it gets the same [`Scenario`]. What it does not simulate: packets, disks, processors.
//! Start at `spec.rs`, then `world.rs`; `scenarios.rs` has those with names.

mod outcome;
mod queue;
mod report;
mod scenarios;
mod screen;
mod spec;
mod uplink;
mod world;

pub use outcome::{Fate, Kept, Outcome, PeerOutcome};
pub use report::{Report, Spread, Watching, ratios};
pub use scenarios::{NAMES, UnknownScenario, named, random};
pub use screen::Watched;
pub use spec::{Edge, Nat, Peer, Reader, Role, Scenario};

/// Runs a scenario to its end.
pub fn run(scenario: Scenario) -> Outcome {
    world::World::new(scenario).run()
}
