//! The pgkeel program as a library, so that its tests can call it: the command line, the configuration file, the log,
//! the demonstration.

pub mod cli;

pub mod ask;
pub mod config;
pub mod demo;
pub mod log;
pub mod setup;
pub mod signals;
