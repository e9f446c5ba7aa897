//! What every binary needs around its own work.
