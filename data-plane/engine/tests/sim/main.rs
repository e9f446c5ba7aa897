//! The engine on a virtual clock: scripted phones, a network that loses, repeats and reorders, and an environment in memory.
//!
//! Nothing here waits: time moves to the next thing that is due. Every test ends with [`world::World::finish`], which lets all
//! timers run out and checks that nothing is left behind.

mod env;
mod phone;
mod world;

mod calls;
mod failover;
mod flows;
mod hostile;
mod in_dialog;
mod limits;
mod loss;
mod media;
mod others;
mod registration;
