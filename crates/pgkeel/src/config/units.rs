//! Texts with units: durations, sizes, shares, addresses. Each reader returns what is wrong and an example of what is right.

use std::net::IpAddr;
use std::time::Duration;

/// Reads "1.5s", "300ms", "1m 30s". A number without a unit is refused.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("{text:?} has no unit; write for example \"{text}s\" or \"{text}ms\""));
    }
    let wrong = || format!("{text:?} is not a duration; write for example \"1.5s\", \"300ms\" or \"2m\"");
    match text.split_once('.') {
        None => humantime::parse_duration(text).map_err(|_| wrong()),
        Some(_) => fraction(text).ok_or_else(wrong),
    }
}

/// Reads one number with a decimal point and one unit.
fn fraction(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let one = humantime::parse_duration(&format!("1{}", unit.trim())).ok()?;
    let factor: f64 = number.trim().parse().ok()?;
    Duration::try_from_secs_f64(one.as_secs_f64() * factor).ok().map(round_to_micros)
}

/// Takes away what binary fractions added: no timer here is finer than a microsecond.
fn round_to_micros(exact: Duration) -> Duration {
    let rest = exact.subsec_nanos() % 1_000;
    let down = exact.saturating_sub(Duration::from_nanos(u64::from(rest)));
    if rest >= 500 { down + Duration::from_micros(1) } else { down }
}

/// Reads "16MiB", "512 kB", "1GB" as bytes. Units of 1024 and of 1000 are told apart as their standards do.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not a size; write for example \"1MiB\", \"512kB\" or \"0B\"");
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim() {
        "" => return Err(format!("{text:?} has no unit; write for example \"{text}B\" or \"{text}MiB\"")),
        "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Reads "2%" or "0.5%" as millionths.
pub(super) fn share_ppm(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a share; write a percentage, for example \"2%\"");
    let number = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim();
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let percent: f64 = number.parse().map_err(|_| wrong())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(wrong());
    }
    // In range: at most 1,000,000 after rounding.
    Ok((percent * 10_000.0).round() as u32)
}

/// A host with a port, as agents and proxies are addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Host name or IP address, without brackets.
    pub(super) host: String,
    /// TCP port, never 0.
    pub(super) port: u16,
}

impl Address {
    /// The usual way to write it: brackets around an IPv6 address, names in lower case.
    pub(super) fn text(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Reads "10.0.0.1:7400", "db1.example.net:7400" or "[fd00::1]:7400".
pub(super) fn address(text: &str) -> Result<Address, String> {
    let wrong = || format!("{text:?} is not an address; write host:port, for example \"10.0.0.1:7400\"");
    let (host_text, port) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if let Some(problem) = means_any(host_text) {
        return Err(problem);
    }
    let host = host(host_text).map_err(|_| wrong())?;
    if port == 0 || (host.contains(':') && !host_text.starts_with('[')) {
        return Err(wrong());
    }
    Ok(Address { host, port })
}

/// Reads a host name or an IP address, IPv6 with or without brackets. An address that means "any" names no host.
pub(super) fn host(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not a host; write a name or an IP address, for example \"10.0.0.1\"");
    if let Some(problem) = means_any(text) {
        return Err(problem);
    }
    if let Ok(ip) = without_brackets(text).parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    let label_fits = |label: &str| {
        let inside = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        inside && (1..=63).contains(&label.len()) && !label.starts_with('-')
    };
    let numbers_only = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if text.len() <= 253 && !numbers_only && text.split('.').all(label_fits) {
        Ok(text.to_lowercase())
    } else {
        Err(wrong())
    }
}

/// What is wrong with an address that stands for all of them.
fn means_any(text: &str) -> Option<String> {
    let any = text == "*" || without_brackets(text).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    any.then(|| {
        format!("{text:?} means every address of a host, so nobody can connect to it; write the host's own")
    })
}

fn without_brackets(text: &str) -> &str {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("0.1s"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(
            duration("1500"),
            Err("\"1500\" has no unit; write for example \"1500s\" or \"1500ms\"".to_owned())
        );
        for wrong in [
            "",
            "s",
            "-1s",
            "1..5s",
            "1.5",
            "soon",
            "1.5 parsec",
            "9999999999999999999999s",
            "1e9.0s",
            "NaN.s",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_need_a_unit_and_must_fit() {
        assert_eq!(size("1MiB"), Ok(1_048_576));
        assert_eq!(size("512 kB"), Ok(512_000));
        assert_eq!(size("0B"), Ok(0));
        for wrong in ["", "1", "MiB", "1.5MiB", "1mib", "-1B", "99999999999TiB", "1 MiB extra"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(share_ppm("2%"), Ok(20_000));
        assert_eq!(share_ppm("0.5 %"), Ok(5_000));
        for wrong in ["", "%", "2", "-1%", "101%", "inf%", "nan%"] {
            assert!(share_ppm(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_name_a_host_and_a_port() {
        assert_eq!(address("10.0.0.1:7400").map(|a| a.text()), Ok("10.0.0.1:7400".to_owned()));
        assert_eq!(address("DB1.example.net:7400").map(|a| a.text()), Ok("db1.example.net:7400".to_owned()));
        assert_eq!(address("[FD00::1]:7400").map(|a| a.text()), Ok("[fd00::1]:7400".to_owned()));
        for wrong in [
            "",
            ":7400",
            "10.0.0.1",
            "10.0.0.1:0",
            "h:70000",
            "fd00::1:7400",
            "0.0.0.0:1",
            "10.0.0:1",
            "a b:1",
            "-x:1",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
