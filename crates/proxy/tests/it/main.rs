//! The proxy in front of real PostgreSQL servers, told the view by an agent that these tests play.

#![allow(clippy::unwrap_used)]

mod agent;

mod postgres;

mod raw_client;

mod setup;

mod relay;

mod hold;

mod begins;

mod databases;

mod epoch;

mod switchover;

mod isolation;

mod named;

mod peers;

mod reload;

mod takeover;

mod takeover_sessions;

mod pgbench;

mod views;

mod hostile;

mod scram;

mod pooled;

mod protocol;

mod console;

mod console_orders;

mod limits;

mod gone;
mod hba;

mod login_attacks;

mod leaks;

mod listen;

mod loss;

mod servers;

mod certificates;

mod raw_tls;

mod tls;

mod tls_login;

mod tls_servers;

mod unix_servers;

mod unix_clients;

mod workers;

mod md5;
