//! What the tests of the whole need: the simulator, the lab of real servers, and what the benchmark counts. Never
//! shipped.

#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "lab")]
pub mod measure;
#[cfg(feature = "model")]
pub mod model;
pub mod sim;
