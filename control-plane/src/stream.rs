//! Configuration to the workers: what there is (`catalogue`), what one worker lacks (`session`), who is there (`fleet`).

pub mod catalogue;
pub mod session;
pub mod source;
