//! Side by side with Kamailio and rtpengine: the same work, in one run, in turns.
//!
//! The figure is CPU time of the system under test, all its processes and threads, per unit of work, at equal offered load.
//! Wall figures and the generator's own CPU stand beside it.
//!
//! - [`workload`]: what a row of the table is; [`workloads`]: all of them.
//! - [`systems`]: the two sides, started and ended for each measurement; [`load`]: SIPp, and the steady window it is measured in.
//! - [`cpu`], [`memory`], [`affinity`]: what the kernel knows of processes, and on which core they run.
//! - [`rtp`], [`sip`]: phones that talk, many at once, and the network between them and the edge.
//! - [`rounds`]: the order of measurements; [`report`]: the file they end up in; [`table`] and [`plot`]: how people
//!   see it.
//! - [`soak`]: hours of load, and what is left after them.

pub mod affinity;
pub mod cpu;
pub mod load;
pub mod machine;
pub mod memory;
pub mod plot;
pub mod report;
pub mod rounds;
pub mod rtp;
pub mod sample;
pub mod sip;
pub mod soak;
pub mod systems;
pub mod table;
pub mod workload;
pub mod workloads;
