//! What the tests of the whole need: the simulator, the lab of real servers, and what the benchmark counts. Never
//! shipped.

pub mod lab;
pub mod measure;
pub mod model;
pub mod sim;
