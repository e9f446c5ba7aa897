//! The whole system over real sockets: control plane and workers as processes, real phones, traffic as it is on the wire.
//!
//! Nothing here sees the inside of the product: binaries, the API and what stands on the wire are all there is.
//!
//! - [`cluster`]: a control plane and its workers, started, killed and ended in good order; an error in a log fails the test.
//! - [`api`]: the API as a client with a token has it; [`fixtures`]: trunks, phones and routes that tests want.
//! - [`sip`]: one request at a time; [`sipp`]: many; [`baresip`]: a softphone with tones in its ear and mouth.
//! - [`capture`]: what went over the wire; [`tone`]: which tone a recording holds.
//! - [`eventually`](mod@eventually): waiting for a value, the only place that sleeps.

pub mod api;
pub mod baresip;
pub mod capture;
pub mod cluster;
pub mod eventually;
pub mod fixtures;
pub mod http;
pub mod process;
pub mod sip;
pub mod sipp;
pub mod tone;
