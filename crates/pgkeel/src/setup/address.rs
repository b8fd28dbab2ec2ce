//! The addresses of this host, its name as one of a node, and whether ports are free.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, ToSocketAddrs};

use cluster::NodeName;

/// Where agents listen unless somebody says otherwise.
pub const AGENT_PORT: u16 = 7400;

/// Longest name of a node, in characters.
const NAME_MAX: usize = 63;

/// The address for an agent of this host: what was given, with the usual port if it has none, else the only one that other
/// hosts could reach.
///
/// # Errors
/// When none, or several, could be meant.
pub fn for_agent(given: Option<&str>) -> Result<String, String> {
    if let Some(given) = given {
        return Ok(with_port(given, AGENT_PORT));
    }
    let own = own();
    match own.as_slice() {
        [one] => Ok(text(*one, AGENT_PORT)),
        [] => Err(format!(
            "this host has no address that others could reach; say where its agent listens: --listen HOST:{AGENT_PORT}"
        )),
        [first, ..] => {
            let all: Vec<String> = own.iter().map(ToString::to_string).collect();
            Err(format!(
                "this host has several addresses ({}); say at which one the other nodes reach it: --listen {}",
                all.join(", "),
                text(*first, AGENT_PORT)
            ))
        }
    }
}

/// Checks that other hosts could reach `own`, unless the cluster, whose agent is at `asked`, has only this host.
///
/// # Errors
/// When they could not: a member that nobody reaches would be of no use, and of harm once it votes.
pub fn check_reachable(own: &str, asked: &str) -> Result<(), String> {
    let inward = |address: &str| match address.to_socket_addrs() {
        Ok(mut all) => all.all(|one| one.ip().is_loopback() || one.ip().is_unspecified()),
        Err(_) => false,
    };
    if inward(own) && !inward(asked) {
        return Err(format!(
            "at {own} no other host can reach this one; say at which address they do: --listen HOST:{AGENT_PORT}"
        ));
    }
    Ok(())
}

/// With this port, if it has none.
#[must_use]
pub fn with_port(given: &str, port: u16) -> String {
    match given.parse::<IpAddr>() {
        Ok(ip) => text(ip, port),
        Err(_) if given.contains(':') => given.to_owned(),
        Err(_) => format!("{given}:{port}"),
    }
}

fn text(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// This host's addresses that others may reach: those of IPv4, or if there are none, those of IPv6.
fn own() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let four = of_fib_trie(&read("/proc/net/fib_trie"));
    if four.is_empty() { of_if_inet6(&read("/proc/net/if_inet6")) } else { four }
}

/// Local addresses as the kernel's table of routes lists them (net/ipv4/fib_trie.c, `fib_trie_seq_show`): an address on one line,
/// what it is on the next.
fn of_fib_trie(table: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(ip) = last.filter(|ip| !ip.is_loopback() && !ip.is_link_local())
            && !found.contains(&IpAddr::V4(ip))
        {
            found.push(IpAddr::V4(ip));
        }
    }
    found
}

/// proc(5): 32 digits of the address, the number of the device, length, scope (00: global), flags, device.
fn of_if_inet6(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
        (fields.nth(2)? == "00").then(|| IpAddr::V6(Ipv6Addr::from(bits)))
    };
    table.lines().filter_map(address).collect()
}

/// The name that this host would have as a node: the first part of its own, with what no node's name can have replaced.
///
/// # Errors
/// When nothing is left of it.
pub fn node_name() -> Result<NodeName, String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name_of(host.trim()).ok_or_else(|| {
        format!("no name for a node can be made of this host's ({:?}); name it by --node", host.trim())
    })
}

fn name_of(host: &str) -> Option<NodeName> {
    let first = host.split('.').next()?.to_ascii_lowercase();
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' };
    let text: String = first.chars().map(fits).collect();
    let text = text.trim_matches('-');
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let text = if begins_well { text.to_owned() } else { format!("n{text}") };
    // Of a host without a name nothing would be left but the letter.
    (text.len() > 1 || begins_well).then(|| text.chars().take(NAME_MAX).collect::<String>().parse().ok())?
}

/// Checks that a process of this host could listen there.
///
/// # Errors
/// Why not, and what to do.
pub fn check_free(address: &str, what: &str, option: &str) -> Result<(), String> {
    let resolved = address.to_socket_addrs().map_err(|error| {
        format!("{address}, where {what} is to listen, is not known to this host ({error}); see {option}")
    })?;
    for one in resolved {
        match TcpListener::bind(one) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(format!(
                    "{address}, where {what} is to listen, is taken by another program of this host (ss -ltnp shows which); \
                     stop that, or name another by {option}"
                ));
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                return Err(format!(
                    "{address}, where {what} is to listen, is no address of this host; name another by {option}"
                ));
            }
            Err(error) => {
                return Err(format!("{what} cannot listen at {address}: {error}; see {option}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_read_as_the_kernel_writes_them() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
             Local:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        \
             /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n\
             \x20    |-- 10.0.0.7\n        /32 host LOCAL\n";
        assert_eq!(of_fib_trie(table), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert!(of_fib_trie("what\n/32 host LOCAL\n|-- x\n").is_empty());
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fd000000000000000000000000000007 02 40 00 80     eth0\n\
                     fe800000000000000000000000000007 02 40 20 80     eth0\nrubbish\n";
        assert_eq!(of_if_inet6(table), ["fd00::7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_host_s_name_becomes_a_node_s() {
        let name = |host| name_of(host).map(|name| name.to_string());
        assert_eq!(name("db1.example.net").as_deref(), Some("db1"));
        assert_eq!(name("DB 1").as_deref(), Some("db-1"));
        assert_eq!(name("10-0-0-7").as_deref(), Some("n10-0-0-7"));
        assert_eq!(name("é").as_deref(), None);
        assert_eq!(name(""), None);
        assert_eq!(name(&"x".repeat(200)).map(|name| name.len()), Some(63));
    }

    #[test]
    fn a_port_is_added_where_there_is_none() {
        for (given, whole) in [
            ("10.0.0.1", "10.0.0.1:7400"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("db1", "db1:7400"),
            ("fd00::1", "[fd00::1]:7400"),
            ("[fd00::1]:1", "[fd00::1]:1"),
        ] {
            assert_eq!(for_agent(Some(given)).unwrap(), whole);
        }
    }

    #[test]
    fn an_address_that_only_this_host_reaches_is_for_a_cluster_on_it() {
        assert_eq!(check_reachable("127.0.0.1:7401", "127.0.0.1:7400"), Ok(()));
        assert_eq!(check_reachable("192.0.2.2:7400", "192.0.2.1:7400"), Ok(()));
        for own in ["127.0.0.1:7400", "[::1]:7400", "0.0.0.0:7400", "localhost:7400"] {
            assert!(check_reachable(own, "192.0.2.1:7400").is_err(), "{own}");
        }
    }

    #[test]
    fn a_taken_port_is_told_from_an_address_of_elsewhere() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let said = check_free(&address, "the agent", "--listen").unwrap_err();
        assert!(said.contains("is taken by another program"), "{said}");
        let said = check_free("192.0.2.1:7400", "the agent", "--listen").unwrap_err();
        assert!(said.contains("no address of this host"), "{said}");
        drop(taken);
        assert_eq!(check_free(&address, "the agent", "--listen"), Ok(()));
    }
}
