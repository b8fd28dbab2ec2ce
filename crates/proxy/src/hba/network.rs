//! From where clients come.

use std::net::IpAddr;

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Every one.
    All,
    /// Those of which so many leading bits are the same.
    Of { address: IpAddr, bits: u32 },
}

impl Network {
    /// Of an address and, after a slash, the number of its leading bits.
    pub fn parse(text: &str) -> Result<Network, String> {
        let (address, bits) = text.split_once('/').ok_or_else(|| {
            format!(
                "{text:?} has no length, as in 10.0.0.0/8, and no mask; names of hosts are not looked up here"
            )
        })?;
        let address = parse_address(address)?;
        match bits.parse() {
            Ok(bits) if bits <= width(address) => Ok(Network::Of { address, bits }),
            _ => Err(format!("{bits:?} is not a length from 0 to {}", width(address))),
        }
    }

    /// Of an address and a mask.
    pub fn masked(address: &str, mask: &str) -> Result<Network, String> {
        let (address, mask) = (parse_address(address)?, parse_address(mask)?);
        let bits = whole(mask).leading_ones().min(width(mask));
        let is_mask = address.is_ipv4() == mask.is_ipv4() && whole(mask) == leading(bits);
        if is_mask {
            Ok(Network::Of { address, bits })
        } else {
            Err(format!("{mask} is no mask of {address}"))
        }
    }

    /// Whether an address is one of them.
    pub fn has(&self, source: IpAddr) -> bool {
        match *self {
            Network::All => true,
            Network::Of { address, bits } => {
                address.is_ipv4() == source.is_ipv4() && (whole(address) ^ whole(source)) & leading(bits) == 0
            }
        }
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address; names of hosts are not looked up here"))
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Its bits, the first one highest.
fn whole(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn leading(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_by_their_leading_bits() {
        for (network, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.9", "10.2.0.1"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("10.1.2.3/9", "10.127.0.0", "10.128.0.0"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("::/0", "::1", "127.0.0.1"),
            ("fe80::/10", "febf::1", "fec0::1"),
            ("::1/128", "::1", "::2"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.has(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.has(outside.parse().unwrap()), "{network:?} {outside}");
            assert!(Network::All.has(outside.parse().unwrap()));
        }
    }

    #[test]
    fn a_mask_says_the_same_as_a_length() {
        for (address, mask, network) in [
            ("10.1.0.0", "255.255.0.0", "10.1.0.0/16"),
            ("10.1.0.0", "0.0.0.0", "10.1.0.0/0"),
            ("10.1.0.0", "255.255.255.255", "10.1.0.0/32"),
            ("fe80::", "ffc0::", "fe80::/10"),
            ("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1/128"),
        ] {
            assert_eq!(Network::masked(address, mask), Network::parse(network), "{network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "::/129",
            "shop.example/8",
            "10.0.0/8",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
        for (address, mask) in
            [("10.0.0.0", "255.0.255.0"), ("10.0.0.0", "ffff::"), ("::", "255.0.0.0"), ("x", "y")]
        {
            assert!(Network::masked(address, mask).is_err(), "{address} {mask}");
        }
    }
}
