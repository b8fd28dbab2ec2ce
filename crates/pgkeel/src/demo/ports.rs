//! Ports for the processes of a local cluster, which must still be free when a killed process comes back.
//!
//! They lie outside the range from which the kernel takes ports for outgoing connections, and each is claimed by an
//! abstract Unix socket for as long as the cluster lives, so that two clusters started at once never share one.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context, Result, bail};

/// Ports below are often taken by services.
const LOWEST: u16 = 15_000;
/// Linux's default of net.ipv4.ip_local_port_range (Documentation/networking/ip-sysctl.rst).
const EPHEMERAL_DEFAULT: (u16, u16) = (32_768, 60_999);

/// A port that no other local cluster uses.
#[derive(Debug)]
pub struct Claim {
    /// The TCP port, on 127.0.0.1.
    pub port: u16,
    _held: UnixDatagram,
}

/// Claims `count` ports that nothing listens on.
///
/// # Errors
/// When the range holds too few of them.
pub fn claim(count: usize) -> Result<Vec<Claim>> {
    let range = usable(ephemeral_range());
    let length = usize::from(range.end() - range.start()) + 1;
    // Spread, so that clusters started one after the other do not look at each other's ports first.
    let first = usize::try_from(std::process::id()).unwrap_or(0).wrapping_mul(61) % length;
    let all = range.clone().cycle().skip(first).take(length);
    let claims: Vec<Claim> = all.filter_map(claim_one).take(count).collect();
    if claims.len() < count {
        bail!(
            "only {} of {count} ports are free between {} and {}",
            claims.len(),
            range.start(),
            range.end()
        );
    }
    Ok(claims)
}

fn claim_one(port: u16) -> Option<Claim> {
    let name = SocketAddr::from_abstract_name(format!("pgkeel-local-port-{port}")).ok()?;
    let held = UnixDatagram::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(Claim { port, _held: held })
}

/// Takes one port away from the others, to have it bound by something else in a test of a taken port.
///
/// # Errors
/// When something listens there.
pub fn occupy(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port} is not free"))
}

fn ephemeral_range() -> (u16, u16) {
    let read = || {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut numbers = text.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    read().unwrap_or(EPHEMERAL_DEFAULT)
}

/// The larger of the ranges below and above the ephemeral one; everything when that one leaves nothing.
fn usable((low, high): (u16, u16)) -> RangeInclusive<u16> {
    let below = low.saturating_sub(LOWEST);
    let above = u16::MAX - high;
    match (below, above) {
        (0..100, 0..100) => LOWEST..=u16::MAX,
        _ if below >= above => LOWEST..=low - 1,
        _ => high + 1..=u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ephemeral_ports_are_left_alone() {
        assert_eq!(usable((32_768, 60_999)), 15_000..=32_767);
        assert_eq!(usable((1_024, 50_000)), 50_001..=65_535);
        assert_eq!(usable((1_024, 65_535)), 15_000..=65_535);
    }

    #[test]
    fn no_port_is_claimed_twice() {
        let first = claim(20).unwrap();
        let second = claim(20).unwrap();
        assert!(first.iter().all(|a| second.iter().all(|b| a.port != b.port)));
        let port = first[0].port;
        drop(first);
        assert!(claim_one(port).is_some(), "a dropped claim frees the port");
    }
}
