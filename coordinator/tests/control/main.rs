//! The control as its shell drives it: a store, nodes that take maps and renew leases, and time,
//! all simulated.

mod faults;
mod fleet;
mod hints;
mod rules;
